"""Stores of scores: exact, the same after any kill, refused when they are of something else."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from lightning.pytorch.strategies import SingleDeviceStrategy
from transformers import AutoModelForCausalLM, PreTrainedModel

from wdl.data import score_store as module
from wdl.data.batches import Batch, collate
from wdl.data.score_store import Measure, ScoreStore, score_batches
from wdl.data.score_table import ScoreTable
from wdl.data.scoring import ENTROPY, REFERENCE
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


def padded(rows: list[Any], idx: list[int], denominator: int) -> Batch:
    return collate(rows, idx, 0, denominator)


def score(
    store: ScoreStore, samples: Dataset, branch: Path, rank: int = 0, world: int = 1
) -> ScoreTable | None:
    alone = SingleDeviceStrategy("cpu")
    return store.complete(lambda: load(branch), samples, padded, alone, rank, world)


def finished(store: ScoreStore, samples: Dataset, branch: Path, world: int = 1) -> dict[int, float]:
    *early, table = [score(store, samples, branch, rank, world) for rank in range(world)]
    assert early == [None] * (world - 1)
    assert table is not None
    values = table.fields[store.measure.field]
    return dict(zip(table.idx.tolist(), values.tolist(), strict=True))


def test_scores_are_means_over_completion_tokens(
    samples: Dataset, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    scores = finished(ScoreStore(tmp_path / "h.jsonl", {}, ENTROPY), samples, pair[0])
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
    finished(ScoreStore(tmp_path / "whole.jsonl", {}, ENTROPY), samples, pair[0])
    killed = ScoreStore(tmp_path / "killed.jsonl", {}, ENTROPY)
    assert score(killed, samples, pair[0], rank=0, world=3) is None
    (journal,) = tmp_path.glob(".killed.jsonl.parts/*.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]) + lines[-1][:10])  # cut off in the middle of a line
    again = ScoreStore(tmp_path / "killed.jsonl", {}, ENTROPY)
    finished(again, samples, pair[0], world=2)
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("measure", [ENTROPY, REFERENCE], ids=lambda measure: measure.name)
def test_nothing_is_scored_twice(
    measure: Measure,
    samples: Dataset,
    pair: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TOKENS_PER_BATCH", 20)
    scored: list[int] = []

    def interrupted(model: PreTrainedModel, batch: dict[str, Any]) -> list[float]:
        if len(scored) > 5 and -1 not in scored:
            scored.append(-1)
            raise KeyboardInterrupt
        scored.extend(batch["sample_ids"].tolist())
        return measure.of(model, batch)

    store = ScoreStore(tmp_path / "h.jsonl", {}, measure._replace(of=interrupted))
    with pytest.raises(KeyboardInterrupt):
        score(store, samples, pair[0])
    resumed = finished(store, samples, pair[0])
    assert sorted(scored) == [-1, *range(12)]
    assert resumed == finished(ScoreStore(tmp_path / "whole.jsonl", {}, measure), samples, pair[0])


def test_entropies_on_disk_keep_their_form(
    samples: Dataset, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # keeps the journal to the end
    scores = finished(ScoreStore(tmp_path / "h.jsonl", {"branch": "a"}, ENTROPY), samples, pair[0])
    key = {"branch": "a", "field": "entropy_0", "tokens_per_batch": 16384}
    longest_first = sorted(scores, key=lambda idx: -samples[idx]["length"])
    entropies = [scores[idx] for idx in longest_first]
    batch = {"batch": 0, "idx": longest_first, "entropy": entropies}
    journal = (tmp_path / ".h.jsonl.parts/0-0.jsonl").read_text()
    assert journal == f"{json.dumps(key)}\n{json.dumps(batch)}\n"
    assert (tmp_path / ".h.jsonl.key.json").read_text() == json.dumps(key, indent=2) + "\n"
    rows = [json.dumps({"idx": idx, "entropy_0": scores[idx]}) for idx in range(12)]
    assert (tmp_path / "h.jsonl").read_text().splitlines() == rows


def test_two_runs_at_once_share_the_scores(
    samples: Dataset, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TOKENS_PER_BATCH", 20)
    journals: set[str] = set()

    def beside_another_run(*args: Any) -> list[float]:
        first_time = not journals
        journals.update(file.name for file in tmp_path.glob(".h.jsonl.parts/*.jsonl"))
        if first_time:
            finished(ScoreStore(tmp_path / "h.jsonl", {}, measure), samples, pair[0])
        return ENTROPY.of(*args)

    measure = ENTROPY._replace(of=beside_another_run)
    finished(ScoreStore(tmp_path / "h.jsonl", {}, measure), samples, pair[0])
    assert journals == {"0-0.jsonl", "0-1.jsonl"}
    assert not list(tmp_path.glob(".h.jsonl.parts/*.jsonl"))


def test_a_finished_store_needs_no_model(
    samples: Dataset, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    file = tmp_path / "h.jsonl"
    scores = finished(ScoreStore(file, {"branch": "a"}, ENTROPY), samples, pair[0])
    assert finished(ScoreStore(file, {"branch": "a"}, ENTROPY), samples, Path("gone")) == scores
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
    started = ScoreStore(file, {"branch": "a", "mask": 1}, ENTROPY)
    score(started, samples, pair[0], rank=0, world=99)  # unfinished, even
    with pytest.raises(UserError, match=f"h.jsonl: it was made with {reason}"):
        ScoreStore(file, key, ENTROPY)


def test_a_file_of_unknown_origin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_text('{"idx": 0, "entropy_0": 1.0}\n')
    with pytest.raises(UserError, match="nothing says what its scores are of"):
        ScoreStore(tmp_path / "h.jsonl", {}, ENTROPY)


def test_batches_depend_on_lengths_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TOKENS_PER_BATCH", 20)
    assert score_batches([3, 9, 10, 2, 30]) == [[4], [2, 1], [0, 3]]
