"""What a verb of a round writes: a file, with a summary beside it, made once from its inputs."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from wdl.errors import UserError
from wdl.system.child import ChildFailure
from wdl.system.files import sync, write_json, write_lines
from wdl.system.journal import refuse_other

Rows = Iterable[dict[str, Any]]
MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
"""A conversation, in a table."""


@dataclass(frozen=True)
class Output:
    """A file that is whole or not there.

    Args:
        path: The file.
        key: What decides about its contents.
        own_summary: Where its summary is; by default NAME.summary.json beside it.
        suffix: What its name must end in, so that others read it as what it is.

    Raises:
        UserError: No file can be there.
    """

    path: Path
    key: dict[str, Any]
    own_summary: Path | None = None
    suffix: str = ".jsonl"

    def __post_init__(self) -> None:
        if self.path.is_dir():
            raise UserError(f"--out {self.path}: this is a folder; name a file in it")
        if self.path.suffix != self.suffix:
            raise UserError(f"--out {self.path}: end the name in {self.suffix}, which it becomes")
        nearest = next(parent for parent in self.path.absolute().parents if parent.exists())
        if not nearest.is_dir():
            raise UserError(f"--out {self.path}: {nearest} is a file; choose another place")
        if not os.access(nearest, os.W_OK):
            raise UserError(f"--out {self.path}: {nearest} cannot be written to; choose another")

    @property
    def summary(self) -> Path:
        """What came of it, with ``key``."""
        return self.own_summary or summary_of(self.path)

    @property
    def journal(self) -> Path:
        """Where results are kept until the file is whole."""
        return self.path.with_name(f".{self.path.name}.journal")

    def earlier(self) -> dict[str, Any] | None:
        """The summary of the file, if it is there.

        Raises:
            UserError: It was made from other inputs.
        """
        if not self.path.exists():
            return None
        found = read_summary(self.summary)
        refuse_other(self.path, found["key"], self.key)
        self.journal.unlink(missing_ok=True)
        print(f"{self.path}: there already, made from the same inputs")
        return found

    def write(self, rows: Rows, summary: dict[str, Any]) -> None:
        """Write the summary, then the rows as JSON Lines, and forget the journal."""
        self.write_summary(summary)
        whole = (with_images_from(row, self.path.parent) for row in rows)
        write_lines(self.path, (json.dumps(row, ensure_ascii=False) for row in whole))
        self.journal.unlink(missing_ok=True)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write the summary, which must be there before the file is."""
        write_json(self.summary, {"key": self.key, **summary})


def with_images_from(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A row whose pictures, if it has any, are named as seen from the folder of its file."""
    if not row.get("images"):
        return row
    return {**row, "images": [os.path.relpath(file, folder.resolve()) for file in row["images"]]}


@contextmanager
def resumable(what: str) -> Iterator[None]:
    """End with code 1, which is no mistake of the user, where ``what`` fails for now."""
    try:
        yield
    except ChildFailure as failure:
        raise SystemExit(
            f"wdl: error: {what} failed ({failure}); what it has done is kept, the same command "
            "goes on from there"
        ) from None


def summary_of(path: Path) -> Path:
    """Where the summary of a file usually is."""
    return path.with_name(f"{path.name}.summary.json")


def read_summary(file: Path) -> dict[str, Any]:
    """A summary; with an empty key if there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    whole = isinstance(found, dict) and isinstance(found.get("key"), dict)
    return found if whole else {"key": {}}


def write_table(path: Path, rows: Sequence[dict[str, Any]], schema: pa.Schema) -> None:
    """Write rows as Parquet, atomically; the same rows give the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    parquet.write_table(pa.Table.from_pylist(list(rows), schema), partial)
    sync(partial)
    partial.replace(path)
