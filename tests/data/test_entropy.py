"""Entropies against a float64 reference; stores that survive a kill and refuse strangers."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel

from wdl.data import entropy as scoring
from wdl.data.entropy import EntropyStore, score_batches, token_entropy


def reference(logits: torch.Tensor) -> torch.Tensor:
    p = logits.double().softmax(-1)
    return -torch.xlogy(p, p).sum(-1)


@pytest.mark.parametrize("scale", [0.01, 1, 3])
def test_token_entropy(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "LOGIT_BYTES", 4 * 500 * 7)  # chunks of seven rows
    torch.manual_seed(0)
    hidden, head = torch.randn(50, 16) * scale, torch.randn(500, 16)
    expected = reference(hidden.double() @ head.double().T)
    torch.testing.assert_close(token_entropy(hidden, head).double(), expected, rtol=1e-5, atol=1e-7)


def test_token_entropy_of_nothing() -> None:
    assert token_entropy(torch.empty(0, 4), torch.randn(9, 4)).shape == (0,)


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


def scored(store: EntropyStore, samples: Dataset, branch: Path, world: int = 1) -> dict[int, float]:
    for rank in range(world):
        store.score(lambda: load(branch), samples, 0, "scoring", rank, world)
    store.finish(len(samples))
    result = store.load()
    assert result is not None
    return result


def test_scores_are_means_over_completion_tokens(
    samples: Dataset, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    scores = scored(EntropyStore(tmp_path, {}), samples, pair[0])
    model = load(pair[0]).double().eval()
    for row in samples:
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0]
        # the distribution that predicts token t comes from position t-1
        expected = reference(logits[row["prompt_length"] - 1 : -1]).mean().item()
        assert scores[row["idx"]] == pytest.approx(expected, rel=1e-5)


def test_ranks_and_restarts_change_no_byte(
    samples: Dataset, pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "TOKENS_PER_BATCH", 20)
    whole = EntropyStore(tmp_path / "whole", {})
    scored(whole, samples, pair[0])
    killed = EntropyStore(tmp_path / "killed", {})
    killed.score(lambda: load(pair[0]), samples, 0, "scoring", rank=0, world_size=3)
    (journal,) = killed.folder.glob("journal-*")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]) + lines[-1][:10])  # cut off in the middle of a line
    scored(killed, samples, pair[0], world=2)
    assert killed.scores_file.read_bytes() == whole.scores_file.read_bytes()


def test_a_finished_store_needs_no_model(
    samples: Dataset, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    store = EntropyStore(tmp_path, {"branch": "a"})
    scored(store, samples, pair[0])
    assert EntropyStore(tmp_path, {"branch": "a"}).load() == store.load()
    assert EntropyStore(tmp_path, {"branch": "b"}).load() is None
    assert json.loads((store.folder / "key.json").read_text()) == {"branch": "a"}


def test_batches_depend_on_lengths_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "TOKENS_PER_BATCH", 20)
    batches = score_batches([3, 9, 10, 2, 30])
    assert batches == [[4], [2, 1], [0, 3]]
