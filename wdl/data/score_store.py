"""Scores on disk, a number per sample: committed batch by batch, never repeated or mixed up.

A killed run goes on where it stopped, with any number of processes. Batches depend on the samples
alone, so neither changes a score.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from lightning.pytorch.strategies import Strategy
from tqdm import tqdm

from wdl.data.batches import Batch
from wdl.data.corpus import column, rows_at
from wdl.data.score_table import ScoreTable
from wdl.errors import UserError
from wdl.system.files import write_json
from wdl.system.journal import Journal, JournalInUse, read_entries, refuse_other
from wdl.system.types import Dataset, PreTrainedModel

TOKENS_PER_BATCH = 16_384


class Measure(NamedTuple):
    """What a sample is scored by.

    Attributes:
        name: Of the scores on disk, whatever their field is called.
        field: Name of the scores in the finished file.
        of: The scores of a padded batch under a model.
        key: What they depend on, beside samples, branch and dtype.
    """

    name: str
    field: str
    of: Callable[[PreTrainedModel, dict[str, Any]], list[float]]
    key: dict[str, Any]


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


class ScoreStore:
    """Scores of one data set by one measure under one branch.

    Beside ``file`` stand ``.FILE.key.json``, which says what the scores are of, and, until it is
    finished, ``.FILE.parts`` with the batches that are committed.

    Args:
        file: Gets the finished scores, in the interchange format.
        key: What the scores depend on (branch, data, template, mask, dtype, ...).
        measure: What a sample is scored by.

    Raises:
        UserError: ``file`` holds something else, or scores under another key.
    """

    def __init__(self, file: Path, key: dict[str, Any], measure: Measure) -> None:
        self.file = file
        self.measure = measure
        self.key = {**key, "field": measure.field, "tokens_per_batch": TOKENS_PER_BATCH}
        self._parts = file.with_name(f".{file.name}.parts")
        self._key_file = file.with_name(f".{file.name}.key.json")
        if self._key_file.is_file():
            refuse_other(self.file, json.loads(self._key_file.read_text()), self.key)
        elif self.file.exists():
            raise UserError(
                f"{self.file}: nothing says what its scores are of ({self._key_file.name} is not "
                "there); choose another file"
            )

    def load(self) -> ScoreTable | None:
        """The finished scores, or None while some are missing."""
        return ScoreTable.read(self.file, signed=True) if self.file.is_file() else None

    def complete(
        self,
        load_model: Callable[[], PreTrainedModel],
        samples: Dataset,
        collate: Callable[[list[Any], list[int], int], Batch],
        strategy: Strategy,
        rank: int = 0,
        world_size: int = 1,
        others: ScoreTable | None = None,
    ) -> ScoreTable | None:
        """The finished scores, what is missing having been scored; every process must call this.

        Args:
            load_model: Called only if anything is left to do.
            samples: What to score, with columns idx, input_ids, prompt_length and length.
            collate: Makes a padded batch of samples, their names and a denominator.
            strategy: How processes wait for each other; with one of a single device, none does.
            rank: This process.
            world_size: Number of processes.
            others: A table whose fields of the same samples are written too.

        Returns:
            None where others, which this process does not wait for, still score.

        Raises:
            UserError: A score is no number, or ``others`` lacks some of the samples.
        """
        # one process looks: another run may finish the file before the others do
        if strategy.broadcast(strategy.is_global_zero and self.load() is None):
            self._parts.mkdir(parents=True, exist_ok=True)
            write_json(self._key_file, self.key)
            batches = score_batches(column(samples, "length").tolist())
            done = self._committed()
            # by number, not by what is missing: other ranks may have committed more by now
            share = {n: batches[n] for n in range(rank, len(batches), world_size) if n not in done}
            if share:
                self._score(load_model().eval(), samples, share, collate, rank)
            strategy.barrier("scored")
        self._finish(len(samples), others)
        strategy.barrier("merged")
        return self.load()

    def _score(
        self,
        model: PreTrainedModel,
        samples: Dataset,
        batches: dict[int, list[int]],
        collate: Callable[[list[Any], list[int], int], Batch],
        rank: int,
    ) -> None:
        """Score and commit batches, which are positions of samples by the batch's number."""
        name = self.measure.name
        description = f"{name} of {len(samples)} samples"
        bar = tqdm(batches.items(), description, unit="batch", disable=rank > 0)
        with self._journal(rank) as journal:
            for number, positions in bar:
                rows = rows_at(samples, positions)
                idx = [row["idx"] for row in rows]
                scores = self.measure.of(model, dict(collate(rows, idx, 1)))
                journal.append([{"batch": number, "idx": idx, name: scores}])

    def _finish(self, samples: int, others: ScoreTable | None) -> None:
        """Write the finished file if all batches are committed; any process may call it."""
        if not self.file.is_file():
            with FileLock(f"{self._parts}.lock"):
                table = self._merge(samples)
                if table is None:
                    return
                if others is not None:
                    place, _ = others.find(table.idx, missing="error")
                    before = {name: values[place] for name, values in others.fields.items()}
                    table.fields = before | table.fields
                table.write(self.file)
        for journal in self._parts.glob("*.jsonl"):
            journal.unlink(missing_ok=True)

    def _merge(self, samples: int) -> ScoreTable | None:
        committed = self._committed().values()
        idx = np.array([i for batch in committed for i in batch["idx"]], dtype=np.int64)
        if len(idx) < samples:
            return None
        name, field = self.measure.name, self.measure.field
        values = np.array([score for batch in committed for score in batch[name]], dtype=np.float64)
        order = np.argsort(idx)
        return ScoreTable(self.file, idx[order], {field: values[order]})

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
