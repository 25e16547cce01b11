"""The output of a command as lines to be read later.

Progress bars go back and draw over themselves. So the last rows are kept as a terminal would show
them, and written when nothing can change them any more; of what is being redrawn, one state every
half a minute is written, and the last.
"""

import re
import time
from pathlib import Path
from typing import BinaryIO

SNAPSHOT_SECONDS = 30
ROWS = 16
"""How far up a bar, or a group of them, is taken to reach."""

LAST_LINES = 10
TAIL_BYTES = 1 << 14

_ESCAPE = re.compile(rb"\x1b\[([0-9;?]*)[ -/]*([@-~])|\x1b\][^\x07]*\x07|\x1b[^\[\]]")
_PIECES = re.compile(
    rb"\r|\n|\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07]*\x07|\x1b[^\[\]]|[^\r\n\x1b]+"
)
_LONGEST_ESCAPE = 256


def last_lines(log: Path) -> list[str]:
    """The last few lines of a log that say something."""
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = stream.read().decode(errors="replace").splitlines()
    return [line for line in lines if line.strip()][-LAST_LINES:]


class LineLog:
    """Writes lines without colours and redrawn states to an unbuffered log."""

    def __init__(self, log: BinaryIO) -> None:
        self._log = log
        self._rows = [b""]
        self._row = 0
        self._at_start = True  # of the row: text replaces it
        self._redrawn = False
        self._unfinished = b""
        self._written_at = time.monotonic()

    def write(self, data: bytes) -> None:
        """Take what a command has written."""
        data = self._unfinished + data
        escape = data.rfind(b"\x1b", -_LONGEST_ESCAPE)
        whole = len(data) if escape < 0 or _ESCAPE.match(data, escape) else escape
        self._unfinished = data[whole:]
        for piece in _PIECES.findall(data[:whole]):
            self._take(piece)
        while len(self._rows) > ROWS and self._row:
            self._line(self._rows.pop(0))
            self._row -= 1
        if self._redrawn:
            self._snapshot()

    def pause(self) -> None:
        """Nothing follows for the moment: lines that are complete can be read already."""
        if self._redrawn:
            self._snapshot()
        else:
            for row in self._rows[: self._row]:
                self._line(row)
            self._rows, self._row = self._rows[self._row :], 0

    def finish(self) -> None:
        """Write what is left."""
        for row in self._rows:
            if row.strip():
                self._line(row)
        self._rows, self._row = [b""], 0

    def _take(self, piece: bytes) -> None:
        if piece == b"\n":
            self._row += 1
            self._at_start = True
            if self._row == len(self._rows):
                self._rows.append(b"")
        elif piece == b"\r":
            self._at_start = True
        elif escape := _ESCAPE.fullmatch(piece):
            self._obey(escape)
        else:
            before = b"" if self._at_start else self._rows[self._row]
            self._redrawn |= self._at_start and bool(self._rows[self._row])
            self._rows[self._row] = before + piece
            self._at_start = False

    def _obey(self, escape: re.Match[bytes]) -> None:
        """Cursor up, and erase a row; colours and all else are dropped."""
        if escape[2] == b"A":
            self._row = max(0, self._row - int(escape[1] or 1))
            self._at_start = self._redrawn = True
        elif escape[2] == b"K":
            self._rows[self._row] = b""

    def _snapshot(self) -> None:
        if time.monotonic() - self._written_at > SNAPSHOT_SECONDS:
            self.finish()
            self._redrawn = False

    def _line(self, row: bytes) -> None:
        self._log.write(row.rstrip() + b"\n")
        self._written_at = time.monotonic()
