"""Rows of data files, streamed, each with the line that a fault is reported at.

    .json       a list of rows
    .jsonl      one row per line
    .jsonl.zst  the same, compressed
    .parquet    one row per row, counted from 1

Rows also come from the hub's data sets, by name: ``organisation/name`` or, where a data set has
several parts, ``organisation/name:part`` (its ``train`` split).
"""

import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wdl.config.paths import DATA_SUFFIXES, is_hub_data
from wdl.errors import MAX_FAULTS, UserError

PARQUET_ROWS = 256
_BROKEN = (ValueError, RecursionError)  # what json raises for text that is none


class RowError(ValueError):
    """What is wrong with one row and how to mend it, without its place."""


class Faults(list[str]):
    """The first lines of what is wrong, and the number of all, so that millions take no memory."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def append(self, line: str) -> None:
        """Count ``line``, and keep it if it is one of the first."""
        self.total += 1
        if len(self) < MAX_FAULTS:
            super().append(line)

    def error(self) -> UserError:
        """All of it as one error."""
        return UserError(*self, total=self.total)


@dataclass(frozen=True)
class HubData:
    """A data set of the hub.

    Args:
        name: ``organisation/name`` or ``organisation/name:part``.
        split: Which of its splits, or several as ``train+test``.
        streams: Whether rows come as they are read. Otherwise the whole set is downloaded first,
            and is there without a network later on.
        remedy: What to do if it cannot be read.
    """

    name: str
    split: str = "train"
    streams: bool = True
    remedy: str = "check data.path"

    def __str__(self) -> str:
        return self.name

    def digest(self) -> str:
        """Its commit.

        Raises:
            UserError: The hub does not know it or cannot be reached.
        """
        from huggingface_hub import HfApi

        repository = self.name.partition(":")[0]
        try:
            return f"{self.name}@{HfApi().dataset_info(repository).sha}"
        except Exception as error:  # the hub and the network fail in many ways
            raise self._unreadable(error) from error

    def rows(self) -> Iterator[tuple[int, Any]]:
        """Number and value of each row."""
        from datasets import load_dataset

        repository, _, part = self.name.partition(":")
        try:
            rows = load_dataset(repository, part or None, split=self.split, streaming=self.streams)
            for number, row in enumerate(rows, start=1):
                yield number, _present(row)
        except Exception as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(
            f"{self.name}: there is no such file, and as a data set of the hub it cannot be read "
            f"({type(error).__name__}: {str(error).strip().splitlines()[0]}); {self.remedy}"
        )


Part = Path | HubData


def data_parts(path: str) -> list[Part]:
    """What ``path`` stands for: a file, the data files of a folder by name, or a hub's data set."""
    return [HubData(path)] if is_hub_data(path) else list(data_files(Path(path)))


def data_files(path: Path) -> list[Path]:
    """The data files at ``path``: itself, or those in the folder in order of name.

    Raises:
        UserError: There is none.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder; check data.path")
    known = " or ".join(DATA_SUFFIXES)
    if not path.is_dir():
        if not path.name.endswith(DATA_SUFFIXES):
            raise UserError(f"{path}: data files end in {known}; convert or rename it")
        return [path]
    files = sorted(p for p in path.iterdir() if p.name.endswith(DATA_SUFFIXES) and p.is_file())
    if not files:
        raise UserError(f"{path}: the folder holds no {known} file")
    return files


def rows_of(part: Part, faults: list[str]) -> Iterator[tuple[int, Any]]:
    """Line number and parsed value of each row; rows that cannot be parsed go to ``faults``.

    Raises:
        UserError: The file as a whole cannot be read.
    """
    if isinstance(part, HubData):
        return part.rows()
    if part.name.endswith(".parquet"):
        return _parquet_rows(part)
    return _json_list(part) if part.suffix == ".json" else _json_lines(part, faults)


def _json_lines(file: Path, faults: list[str]) -> Iterator[tuple[int, Any]]:
    import zstandard

    try:
        with _open_text(file) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except _BROKEN as error:
                    faults.append(
                        f"{file}:{number}: broken JSON ({_reason(error)}); mend or drop the line"
                    )
                    continue
                yield number, row
    except UnicodeDecodeError:
        raise _not_text(file) from None
    except zstandard.ZstdError as error:
        raise UserError(f"{file}: damaged Zstandard data ({error}); copy it again") from None


def _open_text(file: Path) -> io.TextIOBase:
    if not file.name.endswith(".zst"):
        return file.open(encoding="utf-8-sig")
    import zstandard

    # without read_across_frames, files of several frames would end after the first
    stream = zstandard.ZstdDecompressor().stream_reader(
        file.open("rb"), read_across_frames=True, closefd=True
    )
    return io.TextIOWrapper(stream, encoding="utf-8-sig")


def _parquet_rows(file: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(file) as table:
            number = 0
            for batch in table.iter_batches(PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, _present(row)
    except pyarrow.ArrowException as error:
        raise UserError(f"{file}: damaged Parquet data ({error}); copy it again") from None


def _present(row: dict[str, Any]) -> dict[str, Any]:
    """Without the columns that this row has no value in, which stand for keys that are left out."""
    return {key: value for key, value in row.items() if value is not None}


def _json_list(file: Path) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON list, decoded one by one so that each has its line."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise _not_text(file) from None
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
            return
        try:
            row, end = decode(text, place)
        except _BROKEN as error:
            if isinstance(error, json.JSONDecodeError):
                line += text.count("\n", place, error.pos)
            reason = _reason(error)
            raise UserError(f"{file}:{line}: broken JSON ({reason}); mend the file") from None
        yield line, row


def _reason(error: Exception) -> str:
    return error.msg if isinstance(error, json.JSONDecodeError) else str(error)


def _not_text(file: Path) -> UserError:
    return UserError(f"{file}: this is no UTF-8 text; convert it or choose another file")
