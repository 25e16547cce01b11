"""The page of an exported model: metadata that the hub reads, and how it was made."""

from pathlib import Path

from huggingface_hub import ModelCard

from wdl.config.paths import ModelSource
from wdl.training.model_card import model_card
from wdl.training.weak_driven import WeakDrivenModule

PAIR = WeakDrivenModule(ModelSource("a/strong"), ModelSource("a/weak"))
ALONE = WeakDrivenModule(ModelSource("/base"), lam=1)
MADE = {
    "method": PAIR.method,
    "tags": PAIR.tags,
    "strong": "/runs/sft/strong",
    "weak": "Qwen/Qwen3-4B-Base",
    "lam": 0.5,
    "steps": 12,
    "data": {"path": "/data/mine.jsonl", "sha256": "abc", "weights": "v1"},
    "metrics": {"val/strong_loss": 0.123456789},
}


def test_a_pair(tmp_path: Path) -> None:
    here = {"strong": str(tmp_path / "runs/sft/strong"), "frozen": "/home/somebody/base"}
    card = ModelCard(model_card({**MADE, **here}))
    header = card.data.to_dict()
    assert header["base_model"] == ["Qwen/Qwen3-4B-Base"]
    assert "weak-driven-learning" in header["tags"]
    assert "strong branch of a weak-driven pair" in card.text
    assert "somebody" not in card.text
    for row in (
        "| strong | runs/sft/strong |",
        "| frozen | base |",
        "| lam | 0.5 |",
        "| sha256 | abc |",
        "| val/strong_loss | 0.123457 |",
    ):
        assert row in card.text


def test_plain_fine_tuning_of_a_local_model() -> None:
    card = ModelCard(model_card({"method": ALONE.method, "tags": ALONE.tags, "strong": "/base"}))
    header = card.data.to_dict()
    assert "base_model" not in header and header["tags"] == ["wdl", "sft"]
    assert "supervised fine-tuning" in card.text and "## Data" not in card.text
