"""Shared fixtures: tiny real models and data, made once."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch loads
os.environ["HF_HUB_OFFLINE"] = "1"

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    LlamaConfig,
    PreTrainedTokenizerBase,
    Qwen2Config,
    Qwen3Config,
)

from wdl.config.paths import DataSource, ModelSource
from wdl.data.encoding import Encoded, compose, encode_batch
from wdl.data.schemas import Record
from wdl.data.weak_driven import Selection, WeakDrivenDataModule
from wdl.tiny.model import write_tiny_architecture

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a job that a shell put aside
    signal.signal(signal.SIGINT, signal.default_int_handler)  # or no child could be interrupted

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
"""Where tests marked ``device`` compute, which ``make gpu`` runs on a GPU."""
REPOSITORY = Path(__file__).parents[1]
CONFIGS = REPOSITORY / "configs"
SIZES: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
}
ARCHITECTURES = {
    "qwen3-tied": Qwen3Config(**SIZES, tie_word_embeddings=True),
    "qwen3-untied": Qwen3Config(**SIZES, tie_word_embeddings=False),
    "qwen2": Qwen2Config(**SIZES),
    "llama": LlamaConfig(**SIZES),
    "gemma3": Gemma3TextConfig(**SIZES),
}


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Ranks and ports that a trainer sets would reach the processes that later tests start."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test writes to the current folder goes to a folder of its own."""
    monkeypatch.chdir(tmp_path)


def every_sample_once(
    data: Path, strong: ModelSource, weak: ModelSource | None = None, **settings: Any
) -> WeakDrivenDataModule:
    """Data of a fit in steps of 8 samples, which validates on a fifth of them."""
    selection = Selection(weights="uniform", draw="without_replacement")
    sizes = {"batch_size": 8, "micro_batch_size": 8, "val_fraction": 0.2}
    return WeakDrivenDataModule(DataSource(data), strong, weak, selection, **{**sizes, **settings})


def encode(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], answer: str, end_token: int
) -> Encoded:
    """Tokens of one sample."""
    record: Record = {"messages": messages, "completion": answer, "thought": "", "images": []}
    return encode_batch(tokenizer, [compose(tokenizer, record, end_token)], end_token)[0]


@pytest.fixture(scope="session")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded Qwen3's folder, without weights."""
    folder = tmp_path_factory.mktemp("architecture")
    write_tiny_architecture(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(architecture: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(architecture)


@pytest.fixture(scope="session")
def make_branch(
    architecture: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A function that writes a random two-layer Qwen3 with the embedded tokenizer."""

    def make(seed: int = 0, **settings: int | bool) -> Path:
        folder = tmp_path_factory.mktemp("branch")
        config = AutoConfig.from_pretrained(architecture)
        settings = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, **settings}
        config.update({"layer_types": None, **settings})
        config.layer_types = ["full_attention"] * config.num_hidden_layers
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(architecture).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def pair(make_branch: Callable[..., Path]) -> tuple[Path, Path]:
    """A strong and a weak branch."""
    return make_branch(seed=1), make_branch(seed=2)


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes rows as JSON Lines."""

    def write(rows: list[dict], name: str = "rows.jsonl") -> Path:
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    return write


@pytest.fixture
def sums(write_rows: Callable[..., Path]) -> Path:
    """Forty rows with answers of different lengths."""
    return write_rows(
        [
            {"instruction": f"{n} + {n * n}", "output": f"{n + n * n}" * (1 + n % 5)}
            for n in range(40)
        ],
        "sums.jsonl",
    )
