"""What a verb of a round writes: files, with a summary beside them, made once from their inputs."""

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from wdl.errors import UserError
from wdl.system.digests import content_digest
from wdl.system.files import refuse_unwritable, sync, write_json, write_lines
from wdl.system.journal import refuse_other

Row = dict[str, Any]
Rows = Iterable[Row]
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
        refuse_unwritable(self.path, "--out")
        if self.path.is_dir():
            raise UserError(f"--out {self.path}: this is a folder; name a file in it")
        if self.path.suffix != self.suffix:
            raise UserError(f"--out {self.path}: end the name in {self.suffix}, which it becomes")

    @property
    def summary(self) -> Path:
        """What came of it, with ``key``."""
        return self.own_summary or summary_of(self.path)

    @property
    def journal(self) -> Path:
        """Where results are kept until the file is whole."""
        return self.path.with_name(f".{self.path.name}.journal")

    def earlier(self) -> dict[str, Any] | None:
        """The summary, if all files are there as they were written.

        Raises:
            UserError: They were made from other inputs, or one was changed since.
        """
        if not self.path.exists():
            return None
        found = read_summary(self.summary)
        refuse_other(self.path, found["key"], self.key)
        for name, digest in found.get("sha256", {}).items():
            file = self.path.with_name(name)
            if not file.exists():
                return None
            if content_digest(file) != digest:
                raise UserError(
                    f"{file}: it was changed since it was made; remove it, and the same command "
                    "makes it again, or choose another --out"
                )
        self.journal.unlink(missing_ok=True)
        print(f"{self.path}: there already, made from the same inputs")
        return found

    def write(self, rows: Rows, summary: dict[str, Any]) -> None:
        """Write the summary and the rows as JSON Lines, and forget the journal."""
        whole = (with_images_from(row, self.path.parent) for row in rows)
        lines = (json.dumps(row, ensure_ascii=False) for row in whole)
        self._write({self.path: partial(write_lines, lines=lines)}, summary)

    def write_tables(
        self, tables: Mapping[Path, Sequence[Row]], schema: pa.Schema, summary: dict[str, Any]
    ) -> None:
        """Write the summary and each table as Parquet, ``path`` last; the same gives the same."""
        files = {
            file: partial(_write_table, rows=rows, schema=schema) for file, rows in tables.items()
        }
        self._write(files, summary)

    def _write(self, files: Mapping[Path, Callable[[Path], None]], summary: dict[str, Any]) -> None:
        """The summary holds the files' digests, and must be there before ``path`` is."""
        beside = {file: file.with_name(f".{file.name}.{os.getpid()}.new") for file in files}
        for file, write in files.items():
            write(beside[file])
        digests = {file.name: content_digest(new) for file, new in beside.items()}
        write_json(self.summary, {"key": self.key, "sha256": digests, **summary})
        for file, new in beside.items():
            new.replace(file)
        self.journal.unlink(missing_ok=True)


def with_images_from(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A row whose pictures, if it has any, are named as seen from the folder of its file."""
    if not row.get("images"):
        return row
    return {**row, "images": [os.path.relpath(file, folder.resolve()) for file in row["images"]]}


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


def _write_table(path: Path, rows: Sequence[Row], schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(list(rows), schema), path)
    sync(path)
