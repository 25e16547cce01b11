"""Child processes that answer JSON lines with JSON lines, and cannot take their parent along.

What may hang, crash or keep memory runs in one: symbolic algebra, and engines on a GPU.
"""

import json
import os
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any


class ChildFailure(Exception):
    """The child died, broke the protocol or took too long; the message says which."""


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
        self._unfinished = b""
        self.received: deque[Any] = deque()

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

    def receive(self, limit: float) -> Any:
        """The next object that the child writes.

        Args:
            limit: Seconds to wait.

        Raises:
            ChildFailure: It died, or wrote nothing within the limit.
        """
        return receive_any([self], limit)[1]

    def fileno(self) -> int:
        """Where the child's output can be waited for."""
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def read(self) -> None:
        """Take in what the child has written.

        Raises:
            ChildFailure: It has ended.
        """
        block = os.read(self.fileno(), 1 << 16)
        if not block:
            raise ChildFailure(self._epitaph())
        *lines, self._unfinished = (self._unfinished + block).split(b"\n")
        self.received.extend(json.loads(line) for line in lines)

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


def receive_any(children: Sequence[Child], limit: float) -> tuple[Child, Any]:
    """The next object that any of ``children`` writes, and who wrote it.

    Args:
        children: Whom to wait for.
        limit: Seconds to wait.

    Raises:
        ChildFailure: One of them died, or all were silent for as long as the limit.
    """
    deadline = time.monotonic() + limit
    while True:
        for child in children:
            if child.received:
                return child, child.received.popleft()
        ready, _, _ = select.select(children, [], [], max(deadline - time.monotonic(), 0))
        if not ready:
            raise ChildFailure(f"no answer within {limit:g} s")
        for child in ready:
            child.read()
