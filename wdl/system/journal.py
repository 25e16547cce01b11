"""Answers on disk from the moment they are generated, so that a killed run goes on from there."""

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from wdl.errors import UserError


class Journal:
    """A file of JSON lines that only grows; the first line says what the run is.

    Args:
        path: The file; created if it is not there.
        inputs: What decides about the answers. A journal of other inputs is refused.

    Attributes:
        entries: What earlier runs have written, in order.

    Raises:
        UserError: The journal belongs to other inputs, or another process is writing to it.
    """

    def __init__(self, path: Path, inputs: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._stream = path.open("a+b")
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._stream.close()
            fault = f"{path}: another evaluation is writing here; choose another --out"
            raise UserError(fault) from None
        self.entries = self._read()
        if not self.entries:
            self.append([inputs])
        elif (began_with := self.entries.pop(0)) != inputs:
            self._stream.close()
            raise UserError(f"{path}: {explain_difference(began_with, inputs)}")

    def append(self, entries: Sequence[dict[str, Any]]) -> None:
        """Write ``entries`` so that a kill later on does not lose them."""
        lines = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
        self._stream.write(lines.encode())
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _read(self) -> list[dict[str, Any]]:
        """All whole lines; what a kill left of a last one is cut off."""
        self._stream.seek(0)
        whole, _, _ = self._stream.read().rpartition(b"\n")
        self._stream.truncate(len(whole) + bool(whole))
        return [json.loads(line) for line in whole.splitlines()]

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()


def explain_difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """In which inputs an earlier result differs from this run."""
    names = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    return (
        f"it holds answers made with another {', '.join(names)}; results are never mixed or "
        "overwritten, choose another --out"
    )
