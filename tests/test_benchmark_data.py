"""Real input: a benchmark file as it is around, through fit, export and reload."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CONFIGS
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from wdl.branches.loading import load_branch
from wdl.cli import main
from wdl.data.encoding import encode_prompt
from wdl.data.packing import pack
from wdl.data.plan import Plan
from wdl.data.records import RecordReader
from wdl.data.rows import data_files

FOLDER = os.environ.get("WDL_BENCHMARK_DATA")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="WDL_BENCHMARK_DATA names no folder")


@pytest.fixture
def gsm8k() -> Path:
    assert FOLDER is not None
    return Path(FOLDER).absolute() / "gsm8k_test.json"


@pytest.fixture(autouse=True, scope="module")
def _before_the_folder_changes() -> None:
    global FOLDER
    FOLDER = FOLDER and str(Path(FOLDER).absolute())


def test_every_row_is_read(gsm8k: Path) -> None:
    records = [record for _, record in RecordReader(data_files(gsm8k))]
    assert len(records) == 1319 - 6  # six have no worked answer
    assert records[0]["completion"].endswith("The answer is 576.")


@pytest.fixture
def lengths(gsm8k: Path) -> NDArray[np.int64]:
    """About what a subword tokenizer and a template make of the samples."""
    texts = [
        (record["messages"][-1]["content"], record["completion"])
        for _, record in RecordReader(data_files(gsm8k))
    ]
    return np.array([14 + sum(math.ceil(1.4 * len(t.split())) for t in pair) for pair in texts])


def test_packs_are_full(lengths: NDArray[np.int64]) -> None:
    assert lengths.sum() / (4096 * len(pack(lengths, 4096))) >= 0.995


def test_batches_of_like_lengths_pad_little(lengths: NDArray[np.int64]) -> None:
    plan = Plan(np.arange(len(lengths)), lengths, lengths, 256, 8, seed=0)
    parts = [lengths[part.samples] for step in plan.epoch(0) for part in step if part.samples]
    assert lengths.sum() / sum(part.max() * len(part) for part in parts) >= 0.98


def test_fit_export_reload(gsm8k: Path, pair: tuple[Path, Path]) -> None:
    strong, weak = pair
    main(
        [
            *("fit", "--config", str(CONFIGS / "joint.yaml"), "--name", "gsm8k"),
            *("--model.strong", str(strong), "--model.weak", str(weak)),
            *("--data.path", str(gsm8k), "--data.micro_batch_size", "16"),
            *("--trainer.max_steps", "2", "--trainer.enable_progress_bar", "false"),
            *("--evaluation.benchmark", "null", "--evaluation.sft_control", "false"),
        ]
    )
    export = Path("runs/gsm8k/latest/strong")
    reloaded = AutoModelForCausalLM.from_pretrained(export)
    tokenizer = AutoTokenizer.from_pretrained(export)
    (checkpoint,) = Path("runs/gsm8k/latest/checkpoints").glob("*.ckpt")
    state = torch.load(checkpoint / "checkpoint" / "mp_rank_00_model_states.pt", weights_only=False)
    trained = load_branch(str(strong))
    prefix = "branches.strong."
    trained.load_state_dict(
        {k.removeprefix(prefix): v for k, v in state["module"].items() if k.startswith(prefix)}
    )
    ids = torch.tensor([encode_prompt(tokenizer, [{"role": "user", "content": "1+1?"}])])
    with torch.no_grad():
        assert torch.equal(reloaded(ids).logits, trained.eval()(ids).logits)
