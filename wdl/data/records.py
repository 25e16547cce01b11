"""Instruction data as people have it, read row by row, checked and numbered.

:mod:`wdl.data.rows` says where rows come from, :mod:`wdl.data.schemas` what they may look like.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from wdl.data.dataset_info import ListedSet
from wdl.data.images import PICTURES, image_file
from wdl.data.rows import Faults, Part, RowError, rows_of
from wdl.data.schemas import EmptyAnswerError, Record, kind_of, parse_row
from wdl.errors import UserError

MAX_IDX = 2**63 - 1

OnBadRow = Literal["error", "skip"]
TooLong = Literal["drop", "cut"]


class Ids:
    """The ids so far; those that count up from the first take no memory."""

    def __init__(self) -> None:
        self._run = range(0)
        self._others: set[int] = set()

    def __contains__(self, idx: int) -> bool:
        return idx in self._run or idx in self._others

    def add(self, idx: Any) -> None:
        """Take in one more.

        Raises:
            RowError: It is not new, or none.
        """
        if not isinstance(idx, int) or isinstance(idx, bool) or abs(idx) > MAX_IDX:
            raise RowError(f"idx is {kind_of(idx)}; it must be an integer of 64 bits")
        if idx in self:
            raise RowError(f"idx {idx} occurs twice; make it unique or drop it")
        if not self._run:
            self._run = range(idx, idx + 1)
        elif idx == self._run.stop:
            self._run = range(self._run.start, idx + 1)
        else:
            self._others.add(idx)


def _one_record(row: Any) -> list[Record]:
    return [parse_row(row)]


class RecordReader:
    """Checks rows as they stream by; goes through all of them before it raises.

    A row whose answer is empty teaches nothing; it is always left out.

    Args:
        parts: Where the rows come from.
        on_bad_row: ``skip`` leaves out faulty rows too. A file that cannot be read as a whole is
            an error anyway.
        parse: Makes the records of a row, which all have its idx.
        pictures: Folder for pictures that have no file.

    Attributes:
        left_out: One line ``file:line: what; remedy`` for each row that is left out.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        on_bad_row: OnBadRow = "error",
        parse: Callable[[Any], Iterable[Record]] = _one_record,
        pictures: Path = PICTURES,
    ) -> None:
        self.parts = parts
        self._pictures = pictures
        self._parse = parse
        self.left_out = Faults()
        self._faults = self.left_out if on_bad_row == "skip" else Faults()
        self._given = Ids()
        self._without = 0  # rows that bring no idx, with those left out
        self._idx = array("q")  # of each record, or which of the rows without it is
        self._is_given = bytearray()

    def __iter__(self) -> Iterator[tuple[str, Record]]:
        """``file:line`` and value of each record.

        Raises:
            UserError: One line for each faulty row, at the end.
        """
        found = False
        for part in self.parts:
            try:
                for placed in self._records(part):
                    found = True
                    yield placed
            except UserError as error:
                raise UserError(*self._fatal(), *error.faults) from error
        if self._fatal():
            raise self._faults.error()
        if not found:
            raise self.left_out.error()

    def idx(self) -> NDArray[np.int64]:
        """The id of each record, when all are read."""
        ids, is_given = np.array(self._idx), np.array(self._is_given, dtype=bool)
        free = (number for number in count() if number not in self._given)
        numbers = np.fromiter(islice(free, self._without), dtype=np.int64)
        ids[~is_given] = numbers[ids[~is_given]]
        return ids

    def _fatal(self) -> Sequence[str]:
        return () if self._faults is self.left_out else self._faults

    def _records(self, part: Part) -> Iterator[tuple[str, Record]]:
        any_row = False
        folder = part.parent if isinstance(part, Path) else part.folder
        if isinstance(part, ListedSet):
            part.refuse_other(ranking=self._parse is not _one_record)
        for line, row in tqdm(rows_of(part, self._faults), f"{part}", unit=" rows", delay=5):
            any_row = True
            own = row.get("idx") if isinstance(row, dict) else None
            self._without += own is None
            try:
                records = list(self._parse(row))
                images = [image_file(one, folder, self._pictures) for one in records[0]["images"]]
                for record in records:  # answers to one question, with its pictures
                    record["images"] = images
                if own is not None:
                    self._given.add(own)
            except EmptyAnswerError as fault:
                self.left_out.append(f"{part}:{line}: {fault}")
            except RowError as fault:
                self._faults.append(f"{part}:{line}: {fault}")
            else:
                for record in records:
                    self._idx.append(self._without - 1 if own is None else own)
                    self._is_given.append(own is not None)
                    yield f"{part}:{line}", record
        if not any_row and not self._faults:
            raise UserError(f"{part}: the file is empty; it must hold at least one row")
