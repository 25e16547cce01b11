"""Stores of entropies: exact, the same after any kill, refused when they are of something else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel

from wdl.data import score_store as module
from wdl.data.score_store import EntropyStore, score_batches
from wdl.errors import UserError


@pytest.fixture
def samples() -> Dataset:
    rng = torch.Generator().manual_seed(0)
    rows = []
    for idx in range(12):
        length = 4 + idx % 5
        tokens = torch.randint(250, (length,), generator=rng).tolist()
        rows.append({"idx": idx, "input_ids": tokens, "prompt_length": 2, "length": length})
    return Dataset.from_list(rows)


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder)


def score(
    store: EntropyStore, samples: Dataset, branch: Path, rank: int = 0, world: int = 1
) -> None:
    store.score(lambda: load(branch), samples, 0, "scoring", rank, world)


def finished(store: EntropyStore, samples: Dataset, branch: Path, world: int = 1) -> dict:
    for rank in range(world):
        score(store, samples, branch, rank, world)
    assert store.finish(len(samples))
    table = store.load()
    assert table is not None
    return dict(zip(table.idx.tolist(), table.fields["entropy_0"].tolist(), strict=True))


def test_scores_are_means_over_completion_tokens(
    samples: Dataset, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    scores = finished(EntropyStore(tmp_path / "h.jsonl", {}), samples, pair[0])
    model = load(pair[0]).double().eval()
    for row in samples:
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0]
        # the distribution that predicts token t comes from position t-1
        p = logits[row["prompt_length"] - 1 : -1].softmax(-1)
        expected = -torch.xlogy(p, p).sum(-1).mean().item()
        assert scores[row["idx"]] == pytest.approx(expected, rel=1e-5)


def test_ranks_and_restarts_change_no_byte(
    samples: Dataset, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOKENS_PER_BATCH", 20)
    finished(EntropyStore(tmp_path / "whole.jsonl", {}), samples, pair[0])
    killed = EntropyStore(tmp_path / "killed.jsonl", {})
    score(killed, samples, pair[0], rank=0, world=3)
    assert not killed.finish(len(samples))
    (journal,) = tmp_path.glob(".killed.jsonl.parts/*.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]) + lines[-1][:10])  # cut off in the middle of a line
    again = EntropyStore(tmp_path / "killed.jsonl", {})
    finished(again, samples, pair[0], world=2)
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_two_runs_at_once_share_the_scores(
    samples: Dataset, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOKENS_PER_BATCH", 20)
    first, second = (EntropyStore(tmp_path / "h.jsonl", {}) for _ in range(2))
    entropies = module.sample_entropies

    def interrupted(*args: Any) -> list[float]:
        monkeypatch.setattr(module, "sample_entropies", entropies)
        score(second, samples, pair[0])
        return entropies(*args)

    monkeypatch.setattr(module, "sample_entropies", interrupted)
    score(first, samples, pair[0])
    assert len(list(tmp_path.glob(".h.jsonl.parts/0-*.jsonl"))) == 2
    assert first.finish(len(samples)) and second.finish(len(samples))


def test_a_finished_store_needs_no_model(
    samples: Dataset, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    file = tmp_path / "h.jsonl"
    scores = finished(EntropyStore(file, {"branch": "a"}), samples, pair[0])
    table = EntropyStore(file, {"branch": "a"}).load()
    assert table is not None
    assert table.fields["entropy_0"].tolist() == list(scores.values())
    assert json.loads(file.read_text().splitlines()[3]) == {"idx": 3, "entropy_0": scores[3]}


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ({"branch": "b", "mask": 1}, "another branch;"),
        ({"branch": "b", "mask": 2}, "another branch, mask;"),
        ({"branch": "a"}, "another mask;"),
    ],
)
def test_scores_of_something_else_are_refused(
    key: dict[str, Any], reason: str, samples: Dataset, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    file = tmp_path / "h.jsonl"
    started = EntropyStore(file, {"branch": "a", "mask": 1})
    score(started, samples, pair[0], rank=0, world=99)  # unfinished, even
    with pytest.raises(UserError, match=f"h.jsonl: its scores were made with {reason}"):
        EntropyStore(file, key)


def test_a_file_of_unknown_origin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text('{"idx": 0, "entropy_0": 1.0}\n')
    with pytest.raises(UserError, match="nothing says what its scores are of"):
        EntropyStore(tmp_path / "h.jsonl", {})


def test_batches_depend_on_lengths_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKENS_PER_BATCH", 20)
    assert score_batches([3, 9, 10, 2, 30]) == [[4], [2, 1], [0, 3]]
