"""Preference data, encoded: questions, each with its answers and the pairs that are compared.

    rows → answers → sequences (each answer once) → questions (each prompt once) → pairs

Rows that ask the same are one question, whatever row an answer comes from; its pairs are those of
all its rows. So a file that lists the pairs of a question costs no more than one that lists its
answers.
"""

import hashlib
from array import array
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray

from wdl.branches.vision import ImageLimits
from wdl.data.corpus import RECORDS, Corpus
from wdl.data.encoding import encode_records
from wdl.data.pairs import Pairs, among_first, by_chance, every_pair, within
from wdl.data.preference_schemas import parse_preferences
from wdl.data.records import OnBadRow, RecordReader
from wdl.errors import UserError
from wdl.system.digests import value_digest
from wdl.system.types import Dataset


class PreferenceCorpus(Corpus):
    """Questions with chosen and rejected answers, encoded for a tokenizer.

    Args:
        path: A data file, a folder of them, or a data set of the hub.
        tokenizer: Model folder or hub name that the tokenizer comes from.
        cache: Folder for what is read and encoded.
        system_prompt: Text of a system message, ``paper`` for the paper's, or None for none.
        max_length: Longest answer in tokens, with its prompt. Longer ones are left out.
        on_bad_row: Whether a faulty row is an error or skipped.
        max_pairs: Most pairs of a question, or None for all; which ones are kept depends on its
            answers alone.
        max_tokens: Most tokens of a question, or None for any number. Its pairs are taken one
            after the other, in the same order, if there is room.
        images: Sizes of pictures.
    """

    unit = "answers"
    records_schema = RECORDS.append(pa.field("chosen", pa.bool_()))

    def __init__(
        self,
        path: str,
        tokenizer: str,
        cache: Path,
        system_prompt: str | None = None,
        max_length: int = 4096,
        on_bad_row: OnBadRow = "error",
        max_pairs: int | None = None,
        max_tokens: int | None = None,
        images: ImageLimits = ImageLimits(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__(
            path, tokenizer, cache, system_prompt, max_length, "drop", on_bad_row, images
        )
        self.max_pairs = max_pairs
        self.max_tokens = max_tokens

    def read(self) -> RecordReader:
        """The answers of the rows, from the beginning."""
        pictures = self.cache / "images"
        return RecordReader(self._parts, self.on_bad_row, parse_preferences, pictures)

    @cached_property
    def records(self) -> Dataset:
        """The answers, with columns chosen and record (its number) beside the others."""
        records = super().records
        return records.add_column("record", np.arange(len(records)))

    @property
    def samples(self) -> Dataset:
        """The questions that have a pair.

        Columns idx (of the first row that asks it), prompt_hash (in [0, 1)), length (tokens of all
        its sequences), sequences (their positions in :attr:`sequences`), and chosen and rejected
        [pairs], positions among these.

        Raises:
            UserError: There is none.
        """
        return self._joined[1]

    @property
    def sequences(self) -> Dataset:
        """What runs through a model: the answers that a pair needs, those to a question together.

        Columns idx (its position), input_ids, prompt_length, length (with the prompt) and record.
        """
        return self._joined[0]

    def columns(self) -> dict[str, Any]:
        """Those of instruction data, and which answers are the same, or to the same question."""
        from datasets import Value

        names = ("record", "question", "sequence")
        own = {"chosen": Value("bool"), **{name: Value("int64") for name in names}}
        return {**super().columns(), **own}

    @staticmethod
    def encode(records: dict[str, list[Any]], **settings: Any) -> dict[str, list[Any]]:
        """The answers, each with a digest of all its tokens and one of its prompt's."""
        encoded = encode_records(records, **settings)
        seen = encoded.get("image_sha256", [[]] * len(encoded["idx"]))
        samples = list(zip(encoded["prompt_length"], encoded["input_ids"], seen, strict=True))
        encoded["question"] = [_digest(tokens[:start], images) for start, tokens, images in samples]
        encoded["sequence"] = [
            _digest([start, *tokens], images) for start, tokens, images in samples
        ]
        return encoded

    def encoding_key(self) -> dict[str, Any]:
        """What the tokens of the answers depend on."""
        return {**super().encoding_key(), "rows": "preferences"}

    def key(self) -> dict[str, Any]:
        """What the sequences depend on."""
        return {**super().key(), "max_pairs": self.max_pairs, "max_tokens": self.max_tokens}

    @cached_property
    def _joined(self) -> tuple[Dataset, Dataset]:
        """Sequences and questions."""
        answers = self.encoded
        questions, names = (_numbers(answers, name) for name in ("question", "sequence"))
        questions = _first(questions)
        pairs = self._pairs(answers, questions, names)
        used = np.unique(pairs)
        used = used[np.argsort(questions[used], kind="stable")]
        place = np.full(len(answers), -1)
        place[used] = np.arange(len(used))
        wanted = {"input_ids", "prompt_length", "length", "record", "images", "image_sha256"}
        kept = answers.select_columns([n for n in answers.column_names if n in wanted])
        sequences = kept.add_column("idx", place).select(used)
        return sequences, self._questions(answers, questions, used, place[pairs])

    def _pairs(
        self, answers: Dataset, questions: NDArray[np.int64], names: NDArray[np.int64]
    ) -> Pairs:
        """The pairs that are trained, by question; positions of the first answer of its kind."""
        lengths = _numbers(answers, "length").astype(np.int64)
        pairs = _first(names)[every_pair(_numbers(answers, "idx"), _numbers(answers, "chosen"))]
        bits = np.unique(pairs[0] * len(answers) + pairs[1])
        pairs = np.stack(np.divmod(bits, len(answers)))
        turned = np.isin(pairs[1] * len(answers) + pairs[0], bits) & (pairs[0] != pairs[1])
        pairs = _keep(pairs, ~turned, "the data prefer the one answer to the other and vice versa")
        pairs = _keep(pairs, pairs[0] != pairs[1], "both sides are the same tokens")
        long = lengths > self.max_length
        why = (
            f"{long[np.unique(pairs)].sum()} answers are longer than {self.max_length} tokens "
            "(data.max_length), and none is cut"
        )
        pairs = _keep(pairs, ~(long[pairs[0]] | long[pairs[1]]), why)
        pairs = by_chance(pairs, questions, names)
        if self.max_tokens is not None:
            why = f"their question has no room for them (data.max_tokens, {self.max_tokens})"
            pairs = _keep(pairs, within(pairs, questions, lengths, self.max_tokens), why)
        if not pairs.size:
            raise UserError(
                f"{self.path}: no pair of answers is left to train on, see data.max_length"
                + ("" if self.max_tokens is None else " and data.max_tokens")
            )
        total, left = (len(np.unique(values)) for values in (questions, questions[pairs[0]]))
        if total > left:
            rank_zero_info(f"{total - left} of {total} questions have no pair and are left out")
        if self.max_pairs is not None:
            why = f"a question has at most {self.max_pairs} (data.max_pairs)"
            pairs = _keep(pairs, among_first(pairs, questions, self.max_pairs), why)
        return pairs

    def _questions(
        self,
        answers: Dataset,
        questions: NDArray[np.int64],
        used: NDArray[np.int64],
        pairs: Pairs,
    ) -> Dataset:
        """The questions, of pairs of sequences."""
        from datasets import Dataset

        asked, starts = np.unique(questions[used], return_index=True)
        borders = np.append(starts, len(used))
        pairs = pairs[:, np.lexsort(pairs[::-1])]
        pair_borders = np.searchsorted(pairs[0], borders)
        within_question = pairs - np.repeat(starts, np.diff(pair_borders))
        lengths = _numbers(answers, "length").astype(np.int64)[used]
        table = pa.table(
            {
                "idx": _numbers(answers, "idx")[asked],
                "prompt_hash": _numbers(answers, "prompt_hash")[asked],
                "length": np.add.reduceat(lengths, starts),
                "sequences": _lists(borders, np.arange(len(used))),
                "chosen": _lists(pair_borders, within_question[0]),
                "rejected": _lists(pair_borders, within_question[1]),
            }
        )
        return Dataset(table, fingerprint=value_digest(self.key())[:32])


def flattened(questions: Dataset, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The lists of a column, one after the other, and the length of each."""
    lists = questions.with_format("arrow", columns=[name])[:][name].combine_chunks()
    return lists.flatten().to_numpy(), lists.value_lengths().to_numpy()


def _numbers(answers: Dataset, name: str) -> NDArray[Any]:
    """A column as it is; other ways to read one make float32 of a float64."""
    return answers.with_format("arrow", columns=[name])[:][name].to_numpy()


def _digest(tokens: Sequence[int], images: Sequence[str]) -> int:
    """64 bits that depend on tokens and pictures alone."""
    said = array("i", tokens).tobytes() + "".join(images).encode()
    digest = hashlib.blake2b(said, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _first(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the value of each first stands."""
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    return first[inverse]


def _keep(pairs: Pairs, fits: NDArray[np.bool_], why: str) -> Pairs:
    """The pairs that fit; says how many do not."""
    if fits.all():
        return pairs
    rank_zero_info(f"{(~fits).sum()} of {len(fits)} pairs are left out: {why}")
    return pairs[:, fits]


def _lists(borders: NDArray[np.int64], values: NDArray[np.int64]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(borders, pa.int32()), pa.array(values))
