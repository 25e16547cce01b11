"""Entropy scoring: how uncertain a branch is about each answer, in nats.

H(x) = mean over completion tokens t of −Σ_v P(v | prefix before t)·ln P(v | prefix before t)
(arXiv 2602.08222), under the template, mask and truncation that training uses. The distribution
that predicts token t is read at position t−1.

Scores are committed batch by batch to a journal, so that a killed run goes on where it stopped.
Batches depend on the samples alone, so neither the number of ranks nor a restart changes a score.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from wdl.constants import IGNORE_INDEX
from wdl.data.encoding import collate
from wdl.files import write_text
from wdl.fingerprint import value_digest
from wdl.models.branches import hidden_states, output_head

TOKENS_PER_BATCH = 16_384
LOGIT_BYTES = 256 * 2**20


@torch.no_grad()
def token_entropy(hidden: Tensor, head: Tensor) -> Tensor:
    """Entropy of softmax(hidden @ head.T) without holding all logits at once.

    Args:
        hidden: [N, H], what the output head reads.
        head: [V, H], its weight.

    Returns:
        [N] float32, nats.
    """
    rows = max(1, LOGIT_BYTES // (4 * len(head)))
    chunks = [_chunk_entropy(chunk.float() @ head.float().T) for chunk in hidden.split(rows)]
    return torch.cat(chunks) if chunks else hidden.new_empty(0, dtype=torch.float32)


def _chunk_entropy(logits: Tensor) -> Tensor:
    """ln Σe^z − Σ z·e^z / Σe^z, with z shifted by its maximum; overwrites ``logits``."""  # noqa: D403
    logits -= logits.amax(dim=-1, keepdim=True)
    weights = logits.exp()
    total = weights.sum(dim=-1)
    return total.log() - weights.mul_(logits).sum(dim=-1) / total


@torch.no_grad()
def sample_entropies(model: PreTrainedModel, batch: dict[str, Any]) -> list[float]:
    """Mean completion-token entropy of each sample of a batch, in nats."""
    device = model.device
    labels = batch["labels"].to(device)
    hidden = hidden_states(model, batch["input_ids"].to(device), batch["attention_mask"].to(device))
    counted = labels != IGNORE_INDEX
    entropy = torch.zeros(labels.shape, dtype=torch.float64, device=device)
    entropy[counted] = token_entropy(hidden[counted], output_head(model).weight).double()
    return (entropy.sum(dim=1) / counted.sum(dim=1)).tolist()


def score_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Positions of the samples of each batch: like lengths together, longest first."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches: list[list[int]] = []
    for position in order.tolist():
        width = lengths[batches[-1][0]] if batches else 0
        if batches and (len(batches[-1]) + 1) * width <= TOKENS_PER_BATCH:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches


class EntropyStore:
    """Scores of one branch on one data set, in a folder named after everything they depend on.

    Args:
        root: Folder that holds the stores.
        key: What the scores depend on (branch, data, template, dtype, ...); any change makes
            another store.
    """

    def __init__(self, root: Path, key: dict[str, Any]) -> None:
        self.folder = root / value_digest(key)[:16]
        self.key = key
        self.scores_file = self.folder / "entropy.jsonl"

    def load(self) -> dict[int, float] | None:
        """Scores by sample idx, or None while the store is not complete."""
        if not self.scores_file.is_file():
            return None
        rows = map(json.loads, self.scores_file.read_text().splitlines())
        return {row["idx"]: row["entropy"] for row in rows}

    def score(
        self,
        load_model: Callable[[], PreTrainedModel],
        samples: Dataset,
        pad_token: int,
        description: str,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Score this rank's share of the batches that no journal holds yet."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / "key.json", json.dumps(self.key, indent=2))
        batches = score_batches(samples["length"])
        done = self._journalled()
        # by number, not by what is missing: other ranks may have added to the journals by now
        share = [number for number in range(rank, len(batches), world_size) if number not in done]
        if not share:
            return
        model = load_model().eval()
        # never appended to an older journal, whose last line a kill may have cut off
        attempt = len(list(self.folder.glob(f"journal-{rank}-*")))
        with (self.folder / f"journal-{rank}-{attempt}.jsonl").open("x") as journal:
            for number in tqdm(share, desc=description, unit="batch", disable=rank > 0):
                rows = samples.select(batches[number]).to_list()
                idx = [row["idx"] for row in rows]
                entropies = sample_entropies(model, dict(collate(rows, idx, pad_token, 1)))
                line = {"batch": number, "idx": idx, "entropy": entropies}
                journal.write(json.dumps(line) + "\n")
                journal.flush()
                os.fsync(journal.fileno())

    def finish(self, samples: int) -> None:
        """Merge the journals into the finished file; call on one rank when all have scored.

        Args:
            samples: How many scores there must be.
        """
        if self.scores_file.is_file():
            return
        scores = [
            (idx, entropy)
            for batch in self._journalled().values()
            for idx, entropy in zip(batch["idx"], batch["entropy"], strict=True)
        ]
        if len(scores) != samples:
            raise RuntimeError(f"{self.folder}: {len(scores)} of {samples} samples have a score")
        lines = (json.dumps({"idx": idx, "entropy": entropy}) for idx, entropy in sorted(scores))
        write_text(self.scores_file, "\n".join(lines) + "\n")
        for journal in self.folder.glob("journal-*.jsonl"):
            journal.unlink()

    def _journalled(self) -> dict[int, dict[str, Any]]:
        """Committed batches by number; a line that a kill cut off counts as not written."""
        batches = {}
        for journal in sorted(self.folder.glob("journal-*.jsonl")):
            for line in journal.read_text().splitlines():
                try:
                    batch = json.loads(line)
                except json.JSONDecodeError:
                    continue
                batches[batch["batch"]] = batch
        return batches


def scores_of(samples: Dataset, scores: dict[int, float]) -> NDArray[np.float64]:
    """Scores in the order of ``samples``, [samples] float64."""
    return np.array([scores[idx] for idx in samples["idx"]], dtype=np.float64)
