"""Scores as files: one line per sample. For entropies it is the paper's format.

    {"idx": 0, "entropy_0": 2.5, "entropy_1": 2.1}

``entropy_0``, ``entropy_1``, ... are the rounds: the base model, the model after one round, and so
on; so the last two are the weak and the strong branch.
"""

import json
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wdl.data.records import Ids
from wdl.data.rows import Faults, RowError, rows_of
from wdl.errors import UserError
from wdl.system.files import write_lines

Missing = Literal["error", "drop"]
ROUND = "entropy_"
IDS_SHOWN = 5


@dataclass(eq=False)
class ScoreTable:
    """Scores of samples by field, as one file holds them.

    Args:
        file: Where it comes from, for messages.
        idx: [samples] int64, ascending.
        fields: Name and values [samples], float64, of each field.
    """

    file: Path
    idx: NDArray[np.int64]
    fields: dict[str, NDArray[np.float64]]

    @classmethod
    def read(cls, file: Path, signed: bool = False) -> "ScoreTable":
        """The table in ``file``.

        Args:
            file: What to read.
            signed: Whether scores may be negative, as no entropy is.

        Raises:
            UserError: One line for each faulty row.
        """
        if not file.is_file():
            raise UserError(f"{file}: there is no such file of scores; check its path")
        faults, ids, idx = Faults(), Ids(), array("q")
        columns: dict[str, array[float]] = {}
        for line, row in rows_of(file, faults):
            try:
                values = _values(row, columns, signed)
                ids.add(row["idx"])
            except RowError as fault:
                faults.append(f"{file}:{line}: {fault}")
                continue
            idx.append(row["idx"])
            for name, value in values.items():
                columns.setdefault(name, array("d")).append(value)
        if faults:
            raise faults.error()
        if not idx:
            raise UserError(f"{file}: the file is empty; it must hold at least one row")
        order = np.argsort(np.frombuffer(idx, dtype=np.int64))
        fields = {name: np.frombuffer(column)[order] for name, column in columns.items()}
        return cls(file, np.frombuffer(idx, dtype=np.int64)[order], fields)

    def write(self, file: Path) -> None:
        """Write the table to ``file``, atomically."""
        names = list(self.fields)
        rows = zip(self.idx.tolist(), *(self.fields[n].tolist() for n in names), strict=True)
        lines = (
            json.dumps({"idx": idx, **dict(zip(names, row, strict=True))}) for idx, *row in rows
        )
        write_lines(file, lines)

    def rounds(self) -> NDArray[np.float64]:
        """[rounds, samples] entropy_0, entropy_1, ...

        Raises:
            UserError: There is none, or one between others is missing.
        """
        given = {name for name in self.fields if name.startswith(ROUND)}
        names = [f"{ROUND}{number}" for number in range(len(given))]
        if not given or given != set(names):
            raise UserError(
                f"{self.file}: its fields are {', '.join(self.fields)}; the rounds must be "
                "entropy_0, entropy_1, ... without a gap"
            )
        return np.stack([self.fields[name] for name in names])

    def find(
        self, idx: NDArray[np.int64], missing: Missing
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Where the samples ``idx`` stand in the table.

        Returns:
            [samples] position in the table, and whether it has the sample at all.

        Raises:
            UserError: It lacks some, or all.
        """
        place = np.searchsorted(self.idx, idx).clip(max=len(self.idx) - 1)
        known = self.idx[place] == idx
        lost = idx[~known]
        if len(lost) and (missing == "error" or not known.any()):
            first = ", ".join(map(str, lost[:IDS_SHOWN]))
            raise UserError(
                f"{self.file}: {len(lost)} of {len(idx)} samples have no score, idx {first}"
                f"{', ...' if len(lost) > IDS_SHOWN else ''}; score them, or leave them out with "
                "missing_entropies drop"
            )
        return place, known


def _values(row: Any, first: Mapping[str, Any], signed: bool) -> dict[str, float]:
    """The scores of a row, which must have the fields of the first one."""
    if not isinstance(row, dict) or type(row.get("idx")) is not int:
        raise RowError('a row is {"idx": INTEGER, "entropy_0": NUMBER, ...}')
    values = {name: value for name, value in row.items() if name != "idx"}
    if not values or (first and values.keys() != first.keys()):
        raise RowError(
            f"its fields are {', '.join(values) or 'none'}, expected {', '.join(first) or 'one'}"
        )
    for name, value in values.items():
        if type(value) not in (int, float) or not abs(value) < float("inf"):
            raise RowError(f"{name} is {value!r}; a score is a finite number")
        if value < 0 and not signed:
            raise RowError(f"{name} is {value!r}; an entropy is not negative")
    return values
