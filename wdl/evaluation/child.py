"""Child processes that answer JSON lines with JSON lines, and cannot take their parent along.

What may hang, crash or keep memory runs in one: symbolic algebra, and engines on a GPU.
"""

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any


class ChildFailure(Exception):
    """The child died, broke the protocol or took too long; the message says which."""


class Child:
    """A process that reads one JSON object per line and writes one or more for each.

    Args:
        command: What to run. What it prints to its error stream appears on ours.
        environment: Variables on top of this process's.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        self._unread = b""

    def send(self, message: Any) -> None:
        """Hand one object to the child.

        Raises:
            ChildFailure: It is not there any more.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildFailure(self._epitaph()) from None

    def receive(self, limit: float | None) -> Any:
        """The next object that the child writes.

        Args:
            limit: Seconds to wait; None waits for as long as the child lives.

        Raises:
            ChildFailure: It died, or wrote nothing within the limit.
        """
        assert self._process.stdout is not None
        deadline = None if limit is None else time.monotonic() + limit
        while b"\n" not in self._unread:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise ChildFailure(f"no answer within {limit:g} s")
            block = os.read(self._process.stdout.fileno(), 1 << 16)
            if not block:
                raise ChildFailure(self._epitaph())
            self._unread += block
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        """End the child and its own children, whatever they are doing."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _epitaph(self) -> str:
        code = self._process.wait()
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


def die_with_parent() -> None:
    """Called in a child: be killed when the parent dies, even in the middle of a computation."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
