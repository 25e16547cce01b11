"""Scores of a fit's samples: the numbers themselves, and whether they are kept under their key."""

import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from datasets import Dataset
from numpy.typing import NDArray
from processes import be_one_of_two, free_port
from transformers import AutoModelForCausalLM

from wdl.branches.loading import load_branch
from wdl.config.paths import ModelSource
from wdl.data import score_store
from wdl.data.batches import Batch, collate
from wdl.data.encoding import Encoded
from wdl.data.scoring import REFERENCE, branch_digest, model_scores, sample_logps
from wdl.system.journal import Journal

IDX = [8, 3, 5, 0, 9, 7, 1]


def rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    tokens = [rng.integers(250, size=4 + 3 * n).tolist() for n in range(len(IDX))]
    return [
        {"idx": idx, "input_ids": ids, "prompt_length": 1 + idx % 3, "length": len(ids)}
        for idx, ids in zip(IDX, tokens, strict=True)
    ]


def expected(branch: Path) -> list[float]:
    """Σ ln P of each completion, from all logits, in float64."""
    model = AutoModelForCausalLM.from_pretrained(branch, dtype=torch.float64).eval()
    sums = []
    for row in rows():
        ids = torch.tensor(row["input_ids"])
        with torch.no_grad():
            logps = model(ids[None]).logits[0, :-1].log_softmax(-1)
        sums.append(logps.gather(1, ids[1:, None])[row["prompt_length"] - 1 :].sum().item())
    return sums


def padded(rows: list[Any], idx: list[int], denominator: int) -> Batch:
    return collate(rows, idx, 0, denominator)


def scored(branch: Path, devices: int = 1) -> NDArray[np.float64]:
    """Log-probabilities that a fit gets, kept in ``cache``."""
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, logger=False, enable_checkpointing=False
    )
    trainer.strategy.setup_environment()
    samples, source = Dataset.from_list(rows()), ModelSource(branch)
    digest = branch_digest(source, trainer)
    return model_scores(
        REFERENCE, source, digest, samples, {"data": 1}, Path("cache"), padded, trainer
    )


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_log_probabilities_are_those_of_all_logits(
    dtype: torch.dtype, close: float, pair: tuple[Path, Path]
) -> None:
    model = load_branch(str(pair[0]), dtype).eval()
    samples = [Encoded(input_ids=r["input_ids"], prompt_length=r["prompt_length"]) for r in rows()]
    together = sample_logps(model, dict(collate(samples, IDX, 0, 1)))
    alone = [sample_logps(model, dict(collate([sample], [0], 0, 1)))[0] for sample in samples]
    assert together == pytest.approx(expected(pair[0]), rel=close)
    assert together == pytest.approx(alone, rel=close)


def test_scores_are_in_the_order_of_the_samples_and_kept(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = scored(pair[0])
    assert scores.dtype == np.float64
    assert scores.tolist() == pytest.approx(expected(pair[0]), rel=1e-5)
    monkeypatch.setattr("wdl.data.scoring.load_branch", None)
    assert scored(pair[0]).tolist() == scores.tolist()
    assert len(list(Path("cache").glob("reference/*/reference.jsonl"))) == 1


def test_other_weights_at_the_same_place_are_scored_anew(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    branch = tmp_path / "branch"
    shutil.copytree(pair[0], branch)
    before = scored(branch)
    shutil.copyfile(pair[1] / "model.safetensors", branch / "model.safetensors")
    assert scored(branch).tolist() == pytest.approx(expected(pair[1]), rel=1e-5)
    shutil.copyfile(pair[0] / "model.safetensors", branch / "model.safetensors")
    assert scored(branch).tolist() == before.tolist()
    assert len(list(Path("cache").glob("reference/*/reference.jsonl"))) == 2


def test_the_key_names_the_attention_that_a_branch_is_loaded_with(pair: tuple[Path, Path]) -> None:
    attention = load_branch(str(pair[0])).config._attn_implementation
    assert attention == REFERENCE.key["attention"]


def one_of_two(rank: int, port: int, branch: Path) -> None:
    """A process of a fit; leaves what it got, and which batches it committed."""
    be_one_of_two(rank, port)
    score_store.TOKENS_PER_BATCH = 40
    mine: list[int] = []
    append = Journal.append

    def noted(journal: Journal, entries: Any) -> None:
        mine.extend(entry["batch"] for entry in entries if "batch" in entry)
        append(journal, entries)

    Journal.append = noted  # type: ignore[assignment,method-assign]
    np.savez(f"{rank}.npz", scores=scored(branch, devices=2), batches=mine)


def test_two_processes_share_the_work(pair: tuple[Path, Path]) -> None:
    torch.multiprocessing.spawn(one_of_two, (free_port(), pair[0]), nprocs=2)
    first, second = np.load("0.npz"), np.load("1.npz")
    assert first["scores"].tolist() == second["scores"].tolist()
    assert first["scores"].tolist() == pytest.approx(expected(pair[0]), rel=1e-5)
    count = len(first["batches"]) + len(second["batches"])
    assert count > 2
    assert first["batches"].tolist() == list(range(0, count, 2))
    assert second["batches"].tolist() == list(range(1, count, 2))
