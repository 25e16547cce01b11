"""Results on disk from the moment they are there, so that a killed run goes on from them."""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from wdl.errors import UserError


class JournalInUse(UserError):
    """Another process is writing to the journal."""


class Journal:
    """A file of JSON lines that only grows; the first line says what the run is.

    What a kill left of a last line is cut off.

    Args:
        path: The file; created if it is not there.
        inputs: What decides about the results. A journal of other inputs is refused.

    Raises:
        JournalInUse: Another process is writing to it.
        UserError: It belongs to other inputs, or is damaged.
    """

    def __init__(self, path: Path, inputs: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._stream = path.open("a+b")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stream.close()
            fault = f"{path}: another process is writing here; choose another --out"
            raise JournalInUse(fault) from None
        self._stream.seek(0)
        self._stream.truncate(sum(len(line) for line in self._stream if line.endswith(b"\n")))
        self._stream.seek(0)
        first = self._stream.readline()
        if not first:
            self.append([inputs])
            return
        try:
            refuse_other(path, _parsed(path, 1, first), inputs)
        except UserError:
            self._stream.close()
            raise

    def entries(self) -> Iterator[dict[str, Any]]:
        """Everything that was appended, by earlier runs too, in order."""
        return read_entries(self.path)

    def append(self, entries: Sequence[dict[str, Any]]) -> None:
        """Write ``entries`` so that a kill later on does not lose them."""
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        self._stream.write(lines.encode())
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._stream.close()


def read_entries(path: Path) -> Iterator[dict[str, Any]]:
    """What was appended to a journal, which another process may be writing to.

    Raises:
        UserError: A line is damaged, as no kill does it.
    """
    with path.open("rb") as lines:
        lines.readline()
        for number, line in enumerate(lines, start=2):
            if line.endswith(b"\n"):
                yield _parsed(path, number, line)


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return found
    raise UserError(
        f"{path}:{number}: the line is damaged; remove this file, and the same command makes again "
        "what it holds"
    )


def refuse_other(place: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Do not go on with what was made from other inputs.

    Raises:
        UserError: ``before`` is not ``now``.
    """
    names = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if names:
        raise UserError(
            f"{place}: it was made with another {', '.join(names)}; results are never mixed or "
            "overwritten, choose another --out"
        )
