"""Entropy scores on disk: committed batch by batch, never repeated, never mixed up.

A killed run goes on where it stopped, with any number of processes. Batches depend on the samples
alone, so neither changes a score.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from tqdm import tqdm

from wdl.branches.reading import hidden_states, output_head
from wdl.constants import IGNORE_INDEX
from wdl.data.corpus import column
from wdl.data.encoding import collate
from wdl.data.entropy_table import EntropyTable
from wdl.errors import UserError
from wdl.losses.entropy import token_entropy
from wdl.system.files import write_json
from wdl.system.journal import Journal, JournalInUse, read_entries, refuse_other
from wdl.system.types import Dataset, PreTrainedModel

TOKENS_PER_BATCH = 16_384


def score_batches(lengths: Sequence[int]) -> list[list[int]]:
    """Positions of the samples of each batch: like lengths together, longest first."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    batches: list[list[int]] = []
    width = 0
    for position in order.tolist():
        if batches and (len(batches[-1]) + 1) * width <= TOKENS_PER_BATCH:
            batches[-1].append(position)
        else:
            batches.append([position])
            width = int(lengths[position])
    return batches


class EntropyStore:
    """Scores of one branch on one data set.

    Beside ``file`` stand ``.FILE.key.json``, which says what the scores are of, and, until it is
    finished, ``.FILE.parts`` with the batches that are committed.

    Args:
        file: Gets the finished scores, in the interchange format.
        key: What the scores depend on (branch, data, template, mask, dtype, ...).
        field: Name of the scores in the file.

    Raises:
        UserError: ``file`` holds something else, or scores under another key.
    """

    def __init__(self, file: Path, key: dict[str, Any], field: str = "entropy_0") -> None:
        self.file = file
        self.key = {**key, "field": field, "tokens_per_batch": TOKENS_PER_BATCH}
        self.field = field
        self._parts = file.with_name(f".{file.name}.parts")
        self._key_file = file.with_name(f".{file.name}.key.json")
        if self._key_file.is_file():
            refuse_other(self.file, json.loads(self._key_file.read_text()), self.key)
        elif self.file.exists():
            raise UserError(
                f"{self.file}: nothing says what its scores are of ({self._key_file.name} is not "
                "there); choose another file"
            )

    def load(self) -> EntropyTable | None:
        """The finished scores, or None while some are missing."""
        return EntropyTable.read(self.file) if self.file.is_file() else None

    def score(
        self,
        load_model: Callable[[], PreTrainedModel],
        samples: Dataset,
        pad_token: int,
        description: str,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Score this rank's share of the batches that are not committed yet.

        Args:
            load_model: Called only if anything is left to do.
            samples: What to score, with columns idx, input_ids, prompt_length and length.
            pad_token: Fills up batches; masked.
            description: For the progress bar.
            rank: This process.
            world_size: Number of processes.
        """
        self._parts.mkdir(parents=True, exist_ok=True)
        write_json(self._key_file, self.key)
        batches = score_batches(column(samples, "length").tolist())
        done = self._committed()
        # by number, not by what is missing: other ranks may have committed more by now
        share = [number for number in range(rank, len(batches), world_size) if number not in done]
        if not share:
            return
        model = load_model().eval()
        with self._journal(rank) as journal:
            for number in tqdm(share, desc=description, unit="batch", disable=rank > 0):
                rows = samples.select(batches[number]).to_list()
                idx = [row["idx"] for row in rows]
                entropies = sample_entropies(model, dict(collate(rows, idx, pad_token, 1)))
                journal.append([{"batch": number, "idx": idx, "entropy": entropies}])

    def finish(self, samples: int, others: EntropyTable | None = None) -> bool:
        """Write the finished file once all batches are committed; any process may call it.

        Args:
            samples: How many scores there must be.
            others: A table whose fields of the same samples are written too.

        Returns:
            Whether the file is complete.

        Raises:
            UserError: ``others`` lacks some of the samples.
        """
        if not self.file.is_file():
            with FileLock(f"{self._parts}.lock"):
                table = self._merge(samples)
                if table is None:
                    return self.file.is_file()
                if others is not None:
                    place, _ = others.find(table.idx, missing="error")
                    before = {name: values[place] for name, values in others.fields.items()}
                    table.fields = before | table.fields
                table.write(self.file)
        for journal in self._parts.glob("*.jsonl"):
            journal.unlink(missing_ok=True)
        return True

    def _merge(self, samples: int) -> EntropyTable | None:
        committed = self._committed().values()
        idx = np.array([i for batch in committed for i in batch["idx"]], dtype=np.int64)
        if len(idx) < samples:
            return None
        values = np.array([h for batch in committed for h in batch["entropy"]], dtype=np.float64)
        order = np.argsort(idx)
        return EntropyTable(self.file, idx[order], {self.field: values[order]})

    def _journal(self, rank: int) -> Journal:
        """This rank's own, or a further one where another run with the same key has that."""
        for number in count():
            with suppress(JournalInUse):
                return Journal(self._parts / f"{rank}-{number}.jsonl", self.key)
        raise AssertionError

    def _committed(self) -> dict[int, dict[str, Any]]:
        """Committed batches by number."""
        batches: dict[int, dict[str, Any]] = {}
        for journal in sorted(self._parts.glob("*.jsonl")):
            with suppress(FileNotFoundError):  # another process has just finished the file
                batches |= {batch["batch"]: batch for batch in read_entries(journal)}
        return batches


@torch.no_grad()
def sample_entropies(model: PreTrainedModel, batch: dict[str, Any]) -> list[float]:
    """Mean completion-token entropy of each sample of a padded batch, in nats."""
    device = model.device
    labels = batch["labels"].to(device)
    hidden = hidden_states(model, batch["input_ids"].to(device), batch["attention_mask"].to(device))
    counted = labels != IGNORE_INDEX
    entropy = torch.zeros(labels.shape, dtype=torch.float64, device=device)
    entropy[counted] = token_entropy(hidden[counted], output_head(model).weight).double()
    return (entropy.sum(dim=1) / counted.sum(dim=1)).tolist()
