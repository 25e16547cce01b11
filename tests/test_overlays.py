"""Every overlay, found on disk, trains two steps with its model shrunk, and is planned."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import CONFIGS
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from vision_models import draw, write_vision_model

from wdl.cli import main
from wdl.fit import run
from wdl.training.run_folder import RunFolder

OVERLAYS = sorted(
    str(file.relative_to(CONFIGS))
    for file in (*CONFIGS.glob("*.yaml"), *CONFIGS.glob("deepspeed/*.yaml"))
    if "pipeline" not in file.name and file.name not in ("joint.yaml", "sft.yaml", "dpo.yaml")
)
ARCHITECTURES = {"gemma-3": "gemma3_text", "qwen2.5-3b": "qwen2"}
"""Of overlays for a model that is no Qwen3, by how their names begin."""
VISION = ("qwen2.5-vl", "vision")


def base_of(overlay: str) -> str:
    """The last of those that the commands in its first lines lay it over."""
    head = (CONFIGS / overlay).read_text().partition("\n\n")[0]
    named = [base for base in ("sft.yaml", "joint.yaml", "dpo.yaml") if f"configs/{base}" in head]
    return named[-1] if named else "joint.yaml"


@pytest.fixture(scope="module")
def shrunk(architecture: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that gives a random model of the kind that an overlay is for."""
    made: dict[str, Path] = {}

    def make(overlay: str) -> Path:
        kind = next((k for name, k in ARCHITECTURES.items() if overlay.startswith(name)), "qwen3")
        kind = "vision" if overlay.startswith(VISION) else kind
        if kind not in made:
            made[kind] = folder = tmp_path_factory.mktemp(kind)
            if kind == "vision":
                write_vision_model(folder)
                return folder
            tokenizer = AutoTokenizer.from_pretrained(architecture)
            config = AutoConfig.for_model(
                kind,
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=32_768,
                eos_token_id=tokenizer.eos_token_id,
                **({} if kind == "qwen2" else {"head_dim": 16}),
            )
            AutoModelForCausalLM.from_config(config).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return made[kind]

    return make


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Text, pictures and preferences that any of the bases reads."""
    file = tmp_path / "rows.jsonl"
    picture = draw(tmp_path / "picture.png", 56, 56, "red")
    text = [{"instruction": f"{n} + {n}", "output": f"{2 * n}"} for n in range(12)]
    seen = {"instruction": "<image> What?", "output": "A disc.", "images": [picture]}
    preferred = {"prompt": "2 + 2", "chosen": "4", "rejected": "5"}
    kinds: dict[str, list[dict[str, Any]]] = {
        "text": text,
        "vision": [seen] * 12,
        "dpo": [{**preferred, "prompt": f"{n} + 2"} for n in range(12)],
    }
    for kind, many in kinds.items():
        file.with_name(f"{kind}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in many))
    return tmp_path


def flags(overlay: str, shrunk: Callable[[str], Path], rows: Path) -> list[str]:
    """Options of two steps of a run on what is at hand; all else is the overlay's."""
    base, model = base_of(overlay), str(shrunk(overlay))
    kind = "vision" if overlay.startswith(VISION) else "dpo" if base == "dpo.yaml" else "text"
    config = yaml.safe_load((CONFIGS / overlay).read_text())
    packed = config.get("data", {}).get("max_tokens") is not None
    sizes = {} if packed else {"data.micro_batch_size": 2}
    given: dict[str, Any] = {
        "model.strong": model,
        **({"model.weak": model} if base == "joint.yaml" else {}),
        "data.path": rows / f"{kind}.jsonl",
        "data.batch_size": 2,
        **sizes,
        "trainer.max_steps": 2,
        "trainer.max_epochs": -1,
        "trainer.devices": 1,
        "trainer.accelerator": "cpu",
        "evaluation.benchmark": "null",
        "evaluation.sft_control": "false",
    }
    files = ["--config", str(CONFIGS / base), "--config", str(CONFIGS / overlay)]
    return [*files, *(word for name, value in given.items() for word in (f"--{name}", str(value)))]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_two_steps(overlay: str, shrunk: Callable[[str], Path], rows: Path, tmp_path: Path) -> None:
    dtype = torch.get_default_dtype()
    run(["fit", *flags(overlay, shrunk, rows)])
    assert torch.get_default_dtype() == dtype
    (folder,) = (tmp_path / "runs").glob("*/version_0")
    assert json.loads(RunFolder(folder).results.read_text())["steps"] == 2
    assert (RunFolder(folder).strong / "config.json").is_file()


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if not name.startswith(VISION)])
def test_it_is_planned(overlay: str, shrunk: Callable[[str], Path], rows: Path) -> None:
    known = ["--samples=12", "--sample_tokens=40", "--out=plan.json"]
    main(["plan", *flags(overlay, shrunk, rows), *known])
    planned = json.loads(Path("plan.json").read_text())
    assert planned["memory"]["backward"] > 0 and planned["disk"]["checkpoint"] > 0
