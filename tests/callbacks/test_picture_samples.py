"""Samples with pictures, read back from the event files of a real fit."""

import json
from pathlib import Path

from conftest import CONFIGS
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wdl.cli import main


def test_samples_are_in_the_events(tmp_path: Path) -> None:
    colours = ("red", "green", "blue")
    for colour in colours:
        Image.new("RGB", (60, 40), colour).save(tmp_path / f"{colour}.png")
    rows = [
        {"prompt": "<image>Which colour?", "completion": colour, "images": [f"{colour}.png"]}
        for colour in colours
    ]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    main(
        [
            *("fit", "--config", str(CONFIGS / "sft.yaml")),
            *("--config", str(CONFIGS / "vision-sft.yaml"), "--data.path", "rows.jsonl"),
            *("--data.val_fraction", "0", "--trainer.max_steps", "1", "--data.batch_size", "2"),
            *("--data.micro_batch_size", "2"),
        ]
    )
    events = EventAccumulator(str(tmp_path / "runs/vision-sft/version_0"))
    events.Reload()
    assert {f"samples/{n}/1" for n in range(3)} == set(events.Tags()["images"])
    image = events.Images("samples/0/1")[0]
    assert (image.width, image.height) == (60, 40)
    text = events.Tensors("samples/0/text_summary")[0].tensor_proto.string_val[0].decode()
    assert text.count("<|image_pad|>") == 1
    assert "Which colour?" in text
    assert "red<|im_end|>" in text
