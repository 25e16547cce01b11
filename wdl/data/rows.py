"""Rows of data files, streamed, each with the line that a fault is reported at.

    .json     a list of rows
    .jsonl    one row per line
    .parquet  one row per row, counted from 1

The first two may be compressed (.gz, .zst). Every file is read to its end. Of a folder, all such
files are read, those in its subfolders too, but for hidden ones and those that are named after a
split to test or validate on: ``test.jsonl``, ``validation/0.parquet``.

Rows also come from the sets of a ``dataset_info.json``, see :mod:`wdl.data.dataset_info`, and from
the hub's data sets, by name: ``organisation/name`` or, where a data set has several parts,
``organisation/name:part`` (its ``train`` split).
"""

import io
import json
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pyarrow import parquet

from wdl.config.paths import DATA_SUFFIXES, is_hub_data
from wdl.data.dataset_info import ListedSet, listed_sets
from wdl.errors import MAX_FAULTS, UserError
from wdl.system.hub import hub_fault

TRAINED_ON = {"train", "training"}
HELD_OUT = {"test", "testing", "validation", "valid", "val", "dev", "eval", "heldout", "holdout"}
LISTS = (".json", ".json.gz", ".json.zst")
PARQUET_ROWS = 256
logger = logging.getLogger(__name__)
_BROKEN = (ValueError, RecursionError)  # what json raises for text that is none


class RowError(ValueError):
    """What is wrong with one row and how to mend it, without its place."""


class Faults(list[str]):
    """The first lines of what is wrong, and the number of all, so that millions take no memory."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0
        self._last = ""

    def append(self, line: str) -> None:
        """Count ``line``, unless it was the last one too, and keep it if it is one of the first."""
        if line == self._last:
            return
        self._last = line
        self.total += 1
        if len(self) < MAX_FAULTS:
            super().append(line)

    def error(self) -> UserError:
        """All of it as one error."""
        return UserError(*self, total=self.total)


def warn_of_rows(first: list[str], total: int) -> None:
    """Say, on one process, that rows are left out, and why the first of them."""
    from lightning.pytorch.utilities import rank_zero_only

    if total and not rank_zero_only.rank:  # type: ignore[attr-defined]
        logger.warning("%d rows are left out:", total)
        for line in UserError(*first, total=total).lines():
            logger.warning("  %s", line)


@dataclass(frozen=True)
class HubData:
    """A data set of the hub.

    Args:
        name: ``organisation/name`` or ``organisation/name:part``.
        split: Which of its splits, or several as ``train+test``.
        streams: Whether rows come as they are read. Otherwise the whole set is downloaded first,
            and is there without a network later on.
    """

    name: str
    split: str = "train"
    streams: bool = True
    folder: ClassVar[None] = None

    def __str__(self) -> str:
        return self.name

    def digest(self) -> str:
        """Its commit.

        Raises:
            UserError: The hub does not know it or cannot be reached.
        """
        from huggingface_hub import HfApi

        repository = self.name.partition(":")[0]
        hub_fault()
        try:
            return f"{self.name}@{HfApi().dataset_info(repository).sha}"
        except Exception as error:  # the hub and the network fail in many ways
            raise self._unreadable(error) from error

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Number and value of each row."""
        hub_fault()
        from datasets import load_dataset

        repository, _, part = self.name.partition(":")
        try:
            rows = load_dataset(repository, part or None, split=self.split, streaming=self.streams)
            if self.streams and rows.features:  # pictures as bytes
                rows = rows.decode(False)
            for number, row in enumerate(rows, start=1):
                yield number, _present(row)
        except Exception as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(
            f"{self.name}: there is no such file, and as a data set of the hub it cannot be read "
            f"({hub_fault() or f'{type(error).__name__}: {error}'}); check name and network, "
            "or give a local file"
        )


Part = Path | HubData | ListedSet


def data_parts(path: str) -> list[Part]:
    """What ``path`` stands for: a file, those of a folder (by name or listed), a hub's set."""
    if is_hub_data(path):
        return [HubData(path)]
    sets = listed_sets(path)
    if sets is None:
        return list(data_files(Path(path)))
    return [replace(one, file=file) for one in sets for file in data_files(one.file)]


def data_files(path: Path) -> list[Path]:
    """The data files at ``path``: itself, or those in the folder by name, which it says.

    Raises:
        UserError: There is none.
    """
    from lightning.pytorch.utilities import rank_zero_info

    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder; check data.path")
    if not path.is_dir():
        if not path.name.endswith(DATA_SUFFIXES):
            raise UserError(f"{path}: {_conversion(path)}")
        return [path]
    inside = sorted(p.relative_to(path) for p in path.rglob("*") if p.is_file() or p.is_symlink())
    visible = [file for file in inside if not any(part.startswith(".") for part in file.parts)]
    data = [file for file in visible if file.name.endswith(DATA_SUFFIXES)]
    read = [file for file in data if not _is_held_out(file)]
    unread = ", ".join(map(str, sorted({*visible} - {*read})))
    if data and not read:
        raise UserError(f"{path}: nothing to train on, only {unread}; name the file to read")
    if not read:
        other = path / next(iter(visible), "table.csv")
        raise UserError(f"{path}: no data in the folder; {_conversion(other)}")
    rest = f"; does not read {unread}" if unread else ""
    rank_zero_info(f"{path}: reads {', '.join(map(str, read))}{rest}")
    return [path / file for file in read]


def _is_held_out(file: Path) -> bool:
    """Whether the name, or the innermost folder that is named after a split, says so."""
    for part in reversed(file.parts):
        words = set(re.split("[^a-z]+", part.lower()))
        if words & (TRAINED_ON | HELD_OUT):
            return not words & TRAINED_ON
    return False


def _conversion(path: Path) -> str:
    """How to make data of something else."""
    read = f"Dataset.from_csv('{path}').to_json('{path.with_suffix('.jsonl')}')"
    return (
        "data files end in .json or .jsonl (both also .gz or .zst), or .parquet; rename or convert "
        f'it, if it is a table by python -c "from datasets import Dataset; {read}"'
    )


def rows_of(part: Part, faults: list[str]) -> Iterator[tuple[int, Any]]:
    """Line number and parsed value of each row; rows that cannot be parsed go to ``faults``.

    Raises:
        UserError: The file as a whole cannot be read.
    """
    if isinstance(part, HubData):
        yield from part.rows()
        return
    if isinstance(part, ListedSet):
        yield from ((line, part.renamed(row)) for line, row in rows_of(part.file, faults))
        return
    try:
        if part.name.endswith(".parquet"):
            yield from _parquet_rows(part)
            return
        # cut off data are no error to every decompressor, and end after a first part to some
        stream = pa.input_stream(str(part), compression="detect", buffer_size=2**20)
        with io.TextIOWrapper(stream, encoding="utf-8-sig") as text:
            if part.name.endswith(LISTS):
                yield from _json_list(part, text.read())
            else:
                yield from _json_lines(part, text, faults)
    except UnicodeDecodeError:
        raise UserError(
            f"{part}: this is no UTF-8 text; convert it or choose another file"
        ) from None
    except (OSError, pa.ArrowException) as error:
        kind = part.suffix[1:].capitalize()
        raise UserError(f"{part}: damaged {kind} data ({error}); copy it again") from None


def _json_lines(file: Path, lines: io.TextIOBase, faults: list[str]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except _BROKEN as error:
            faults.append(f"{file}:{number}: broken JSON ({_reason(error)}); mend or drop the line")
            continue
        yield number, row


def _parquet_rows(file: Path) -> Iterator[tuple[int, Any]]:
    with parquet.ParquetFile(file) as table:
        number = 0
        for batch in table.iter_batches(PARQUET_ROWS):
            for row in batch.to_pylist():
                number += 1
                yield number, _present(row)


def _present(row: dict[str, Any]) -> dict[str, Any]:
    """Without the columns that this row has no value in, which stand for keys that are left out."""
    return {key: value for key, value in row.items() if value is not None}


def _json_list(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON list, decoded one by one so that each has its line."""
    place = len(text) - len(text.lstrip())
    line = 1 + text.count("\n", 0, place)
    if place == len(text):
        return
    if text[place] != "[":
        raise UserError(
            f"{file}:{line}: a .json file holds one list of rows; name it .jsonl if each line is a "
            "row"
        )
    decode, between = json.JSONDecoder().raw_decode, re.compile(r"[^\s,]|\Z")
    end = place + 1
    while True:
        before, place = place, between.search(text, end).start()  # type: ignore[union-attr]
        line += text.count("\n", before, place)
        if place == len(text):
            raise UserError(f"{file}:{line}: the list is not closed; the file is cut off")
        if text[place] == "]":
            break
        try:
            row, end = decode(text, place)
        except _BROKEN as error:
            if isinstance(error, json.JSONDecodeError):
                line += text.count("\n", place, error.pos)
            reason = _reason(error)
            raise UserError(f"{file}:{line}: broken JSON ({reason}); mend the file") from None
        yield line, row
    if rest := text[place + 1 :].strip():
        line += text.count("\n", place, text.index(rest, place + 1))
        raise UserError(f"{file}:{line}: there is text after the list; put all rows into one list")


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)
