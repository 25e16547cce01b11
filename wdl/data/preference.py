"""Preference data: questions, each with its right and wrong answers, in one micro-batch.

    rows → questions (answers, pairs) → split → plan → loaders

A question is the unit, not a pair: each of its answers runs through the model once, in however
many pairs it takes part, and a question weighs 1, however many pairs it has.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NotRequired

import numpy as np
from numpy.typing import NDArray

from wdl.branches.loading import check_same_vocabulary
from wdl.branches.sources import check_source
from wdl.config.paths import DataSource, ModelSource
from wdl.data.batches import Batch
from wdl.data.corpus import column, rows_at
from wdl.data.loading import Work, work_of
from wdl.data.plan import Plan
from wdl.data.planned import PlannedDataModule
from wdl.data.preference_corpus import PreferenceCorpus, flattened
from wdl.data.scoring import REFERENCE, branch_digest, model_scores, training_dtype
from wdl.data.selection import Summary
from wdl.errors import UserError
from wdl.system.digests import value_digest
from wdl.system.files import write_lines
from wdl.system.types import Dataset


class PreferenceBatch(Batch):
    """Questions with all their answers: the sequences of a padded batch, or of one pack.

    Numbers are lists, because the precision of a trainer rounds what is a tensor. ``sample_ids``
    are those of the questions, and ``denominator`` is the number of questions. Without a question,
    the batch is one token that is no sequence.

    Attributes:
        chosen: [P] position among the sequences of the better answer of each pair.
        rejected: [P] the same of the worse one.
        weights: [P] 1 / the number of pairs of its question.
        completions: [S] completion tokens of each sequence.
        reference: [S] log-probability of each sequence's completion under the reference, nats.
    """

    chosen: list[int]
    rejected: list[int]
    weights: list[float]
    completions: list[int]
    reference: NotRequired[list[float]]


@dataclass(frozen=True)
class PreferenceSummary(Summary):
    """What an epoch holds; samples are questions."""

    pairs: int
    sequences: int

    def __str__(self) -> str:
        return (
            f"{self.samples} training questions with {self.pairs} pairs of {self.sequences} "
            f"answers ({self.sequences / self.pairs:.2f} sequences per pair), {self.tokens} "
            f"tokens in {self.steps} steps"
        )


class PreferenceDataModule(PlannedDataModule):
    """Questions with chosen and rejected answers, for preference training.

    Sizes (``batch_size``, ``micro_batch_size``) count questions, and a pack of ``max_tokens`` holds
    whole ones. Answers longer than ``max_length`` are left out, never cut.

    Args:
        path: Preference data, see :mod:`wdl.data.preference_schemas`: a .json, .jsonl, .jsonl.zst
            or .parquet file, a folder of them, or a data set of the hub (organisation/name,
            organisation/name:part).
        strong: The branch that is made stronger. Its tokenizer encodes the data.
        weak: The earlier branch, which answers are compared under; null is what strong began with.
        reference: Not to be set: the model links the source whose log-probabilities are computed
            before training; null if none are needed.
        max_pairs: Most pairs of a question; null for all.
        **planned: As of :class:`PlannedDataModule`.
    """

    corpus: PreferenceCorpus
    summary: PreferenceSummary
    unit = "question"
    batch_type = PreferenceBatch

    def __init__(
        self,
        path: DataSource,
        strong: ModelSource,
        weak: ModelSource | None = None,
        reference: ModelSource | None = None,
        max_pairs: int | None = None,
        **planned: Any,
    ) -> None:
        super().__init__(path=path, strong=strong, **planned)
        if self.corpus.too_long == "cut":
            raise UserError(
                "data.too_long: what is compared of an answer is all of it, so none is cut; use "
                "drop, and a larger data.max_length if too many are left out"
            )
        if max_pairs is not None and max_pairs < 1:
            raise UserError(f"data.max_pairs: {max_pairs} must be at least 1; null takes all pairs")
        if weak is not None:
            self.branches["weak"] = weak
        self.reference = reference
        self.max_pairs = max_pairs
        self.corpus = PreferenceCorpus(
            path,
            strong,
            self.cache,
            self.corpus.system_prompt,
            self.corpus.max_length,
            self.corpus.on_bad_row,
            max_pairs,
            self.max_tokens,
            self.corpus.images,
        )

    def check_inputs(self, pretrained: bool = True) -> None:
        """Also look at the reference, and whether the branches fit each other.

        Args:
            pretrained: Whether the strong branch's weights are wanted.

        Raises:
            UserError: Everything that is wrong with the input.
        """
        super().check_inputs(pretrained)
        if self.reference is not None:
            check_source(self.reference, "data.reference")
        for source in (self.branches.get("weak"), self.reference):
            if source is not None:
                check_same_vocabulary(self.branches["strong"], source)

    def setup(self, stage: str) -> None:
        """Also score all answers under the reference."""
        super().setup(stage)
        if self.reference is not None:
            assert self.trainer is not None
            self._reference_digest = branch_digest(self.reference, self.trainer)
            self._reference_scores = model_scores(
                REFERENCE,
                self.reference,
                self._reference_digest,
                self.corpus.sequences,
                self.corpus.key(),
                self.cache,
                self.corpus.collate,
                self.trainer,
                training_dtype(self.trainer),
            )

    def draw(self, lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Every question once."""
        return np.arange(len(lengths)), np.full(len(lengths), 1 / len(lengths))

    def counts(self, samples: Dataset) -> NDArray[np.int64]:
        """1 for each question."""
        return np.ones(len(samples), dtype=np.int64)

    def work(self, samples: Sequence[int]) -> Work:
        """That of all sequences of some questions."""
        rows = rows_at(self.train_samples.select_columns("sequences"), samples)
        return work_of(self.corpus.sequences, [one for row in rows for one in row["sequences"]])

    def collate(self, rows: list[Any], denominator: int) -> PreferenceBatch:
        """The batch of some questions: their sequences, padded or packed, and their pairs."""
        positions = [position for row in rows for position in row["sequences"]]
        sequences = rows_at(self.corpus.sequences, positions)
        batch: PreferenceBatch = {
            **self.put_together(sequences, [row["idx"] for row in rows], denominator),
            "chosen": [],
            "rejected": [],
            "weights": [],
            "completions": [row["length"] - row["prompt_length"] for row in sequences],
        }
        start = 0
        for row in rows:
            batch["chosen"] += [start + position for position in row["chosen"]]
            batch["rejected"] += [start + position for position in row["rejected"]]
            batch["weights"] += [1 / len(row["chosen"])] * len(row["chosen"])
            start += len(row["sequences"])
        if self.reference is not None:
            batch["reference"] = self._reference_scores[positions].tolist()
        return batch

    def summarise(self, probabilities: NDArray[np.float64], plan: Plan) -> PreferenceSummary:
        """Also the pairs and their answers."""
        pairs, sequences = (
            int(flattened(self.corpus.samples, name)[1][~self.held_out].sum())
            for name in ("chosen", "sequences")
        )
        known = asdict(super().summarise(probabilities, plan))
        return PreferenceSummary(**known, pairs=pairs, sequences=sequences)

    def settings(self) -> dict[str, Any]:
        """The questions and the limit of their pairs."""
        return {"questions": len(self.train_samples), "max_pairs": self.max_pairs}

    def made(self) -> dict[str, Any]:
        """Also what the answers were compared under."""
        return {**super().made(), **self._compared()}

    def _compared(self) -> dict[str, str]:
        """The stored reference and its hash, if there is one."""
        if self.reference is None:
            return {}
        return {"reference": str(self.reference), "reference_sha256": self._reference_digest}

    def agreement(self) -> dict[str, Any]:
        """Also the pairs that the questions have, and the reference."""
        agreed = super().agreement()
        if agreed["plan"] is not None:
            agreed["plan"] = value_digest([agreed["plan"], self.max_pairs])
        return {**agreed, **self._compared()}

    def control(self) -> list[str]:
        """Plain SFT on the chosen answers, in one epoch of as many tokens as were trained on."""
        assert self.trainer is not None
        file = self.cache / f"chosen-{value_digest(self.corpus.key())[:32]}.jsonl"
        if not file.is_file():
            write_lines(file, self._chosen())
        # an answer has fewer tokens than a question with all of its, so steps are no measure
        tokens = round(self.summary.tokens * self.trainer.global_step / self.summary.steps)
        return [
            *("--data", "wdl.data.weak_driven.WeakDrivenDataModule", "--data.path", str(file)),
            *("--data.selection.weights", "uniform"),
            *("--data.selection.draw", "without_replacement"),
            *("--data.selection.tokens", str(tokens)),
            *("--trainer.max_epochs", "1", "--trainer.max_steps", "-1"),
        ]

    def _chosen(self) -> Iterator[str]:
        """Each chosen answer as a row of instruction data; the same questions are held out."""
        _, counts = flattened(self.corpus.samples, "sequences")
        chosen, pairs = flattened(self.corpus.samples, "chosen")
        positions = np.unique(np.repeat(np.cumsum(counts) - counts, pairs) + chosen)
        numbers = column(self.corpus.sequences, "record")[positions]
        for record in self.corpus.records.select(numbers):
            thought = {"reasoning_content": record["thought"]} if record["thought"] else {}
            answer = {"role": "assistant", "content": record["completion"], **thought}
            images = {"images": record["images"]} if record["images"] else {}
            row = {"messages": [*record["messages"], answer], **images}
            yield json.dumps(row, ensure_ascii=False)
