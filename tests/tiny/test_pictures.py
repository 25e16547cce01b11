"""The pictures of the embedded default: judged rightly, in both orders, the same each time."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText

from wdl.branches.vision import Vision, open_image
from wdl.errors import UserError
from wdl.tiny.pictures import write_pictures
from wdl.tiny.vision import Kind, write_tiny_vision


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "pictures"
    write_pictures(str(folder))
    return folder


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def seen(file: Path) -> tuple[int, int]:
    """Number and size of the squares in a picture, counted from its pixels."""
    image = Image.open(file)
    width, height = image.size
    ground = Counter(image.getdata()).most_common(1)[0][0]
    if sum(ground) > 3 * 100:  # the squares, if they cover most of it
        ground = min(set(image.getdata()), key=sum)
    left = {(x, y) for x in range(width) for y in range(height) if image.getpixel((x, y)) != ground}
    areas = []
    while left:
        stack, area = [left.pop()], 1
        while stack:
            x, y = stack.pop()
            for near in ((x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)):
                if near in left:
                    left.remove(near)
                    stack.append(near)
                    area += 1
        areas.append(area)
    assert len(set(areas)) == 1
    return len(areas), round((areas[0] ** 0.5 - 2) / 3)


def test_descriptions_and_judgements_are_those_of_the_pixels(folder: Path) -> None:
    for row in rows(folder / "base.jsonl")[:100]:
        number, size = seen(folder / row["images"][0])
        assert row["conversations"][1]["value"] == f"{number}+{size}={number + size}"
    for row in rows(folder / "cold_start.jsonl")[:60]:
        totals = [sum(seen(folder / image)) for image in row["images"]]
        said = row["conversations"][1]["value"]
        assert [int(total) for total in re.findall(r"=(\d+)", said)] == totals
        better = 1 if totals[0] > totals[1] else 2
        assert said.endswith(f"<answer>Image {better} is better</answer>")


@pytest.mark.parametrize("name", ["pool", "heldout"])
def test_pairs_are_asked_in_both_orders(name: str, folder: Path) -> None:
    asked = rows(folder / f"{name}.jsonl")
    assert Counter(row["solution"] for row in asked) == {
        f"Image {n} is better": len(asked) // 2 for n in (1, 2)
    }
    for one, other in zip(asked[::2], asked[1::2], strict=True):
        assert one["item"] == other["item"]
        assert one["images"] == other["images"][::-1]
        assert one["solution"] != other["solution"]


def test_no_picture_is_in_two_files(folder: Path) -> None:
    names = ("base", "cold_start", "pool", "heldout")
    files = [
        {image for row in rows(folder / f"{name}.jsonl") for image in row["images"]}
        for name in names
    ]
    assert sum(map(len, files)) == len(set.union(*files)) == len(list(folder.glob("images/*")))


def test_the_same_bytes_again(folder: Path, tmp_path: Path, capsys: Any) -> None:
    write_pictures(str(tmp_path / "again"))
    for file in (file for file in folder.rglob("*") if file.is_file()):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(folder)).read_bytes()
    write_pictures(str(folder))
    assert "there already" in capsys.readouterr().out
    with pytest.raises(UserError, match="something else is there already"):
        write_pictures(str(folder), seed=1)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_tiny_models_see_them(kind: Kind, folder: Path, tmp_path: Path) -> None:
    write_tiny_vision(tmp_path, kind)
    vision = Vision(str(tmp_path))
    model = AutoModelForImageTextToText.from_config(vision.config).eval()
    image = open_image(folder / rows(folder / "base.jsonl")[0]["images"][0])
    tokens = torch.tensor([vision.tokens("<|vision_start|><|image_pad|><|vision_end|>", [image])])
    assert int((tokens == vision.image_token).sum()) == 4
    logits = model(input_ids=tokens, **vision.inputs(tokens, [image])).logits
    assert logits.isfinite().all()
