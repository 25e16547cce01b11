"""One program in a sandbox, from its start until it ends or a limit ends it.

It is given its text and its input, and what it prints and reports is taken in, while its time, its
output and the memory of all its processes are watched.
"""

import os
import selectors
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wdl.system.child import ChildFailure

GIB = 1 << 30
STARTED = b"started\n"
_PAUSE = 0.05  # seconds between two looks at the memory of all processes
_GRACE = 20.0  # seconds for the interpreter to start, which are not the program's


@dataclass(frozen=True)
class Limits:
    """What one run may use.

    Args:
        seconds: Time on the clock, and of CPU for each process.
        memory: Bytes of address space of each process, and of memory of all.
        output: Bytes on each of its output streams.
        processes: Processes and threads at the same time; not bound by ``plain``.
        files: Bytes of one file, and of all that lies in the folder.
    """

    seconds: float = 10.0
    memory: int = 4 * GIB
    output: int = 4 << 20
    processes: int = 64
    files: int = 128 << 20


@dataclass(frozen=True)
class Ran:
    """What came of a program.

    Args:
        code: Exit code, negative for a signal.
        output: What it printed.
        errors: What it printed to the error stream.
        report: What it wrote to descriptor 3.
        stopped: Which limit ended it: ``time``, ``memory`` or ``output``; empty for none.
    """

    code: int
    output: bytes
    errors: bytes
    report: bytes
    stopped: str


class Run:
    """The conversation with one program.

    Args:
        process: It, with pipes for its three streams.
        mine: Descriptors to read its report from, and to tell it by.
        limits: What it may use.
        stdin: What it can read.
        first: What it is told at once.
        later: What it is told when it has reported.
    """

    def __init__(
        self,
        process: subprocess.Popen,
        mine: list[int],
        limits: Limits,
        stdin: bytes,
        first: bytes,
        later: bytes,
    ) -> None:
        self._process, self._limits, self._later = process, limits, later
        self._mine, self._is_told = mine, False
        assert process.stdin and process.stdout and process.stderr
        self._report, self._told = mine
        self._input = process.stdin.fileno()
        self._sent = {self._input: memoryview(stdin), self._told: memoryview(first)}
        self._got = {
            process.stdout.fileno(): bytearray(),
            process.stderr.fileno(): bytearray(),
            self._report: bytearray(),
        }
        self._selector = selectors.DefaultSelector()
        for descriptor in self._got:
            self._selector.register(descriptor, selectors.EVENT_READ)
        for descriptor in self._sent:
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_WRITE)

    def finish(self) -> Ran:
        """What came of it.

        Raises:
            ChildFailure: It did not start; that is not the program's fault.
        """
        stopped = self._talk()
        self.end()
        output, errors, report = (bytes(text) for text in self._got.values())
        if not report.startswith(STARTED):
            said = errors.decode(errors="replace").strip().splitlines() or ["no word from it"]
            raise ChildFailure(f"the sandbox did not start: {said[-1]}")
        report = report.removeprefix(STARTED)
        return Ran(self._process.returncode, output, errors, report, stopped)

    def end(self) -> None:
        """Kill what is left; closing the first process's namespace ends all that is in it."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            with suppress(OSError):
                stream.close()  # type: ignore[union-attr]

    def _talk(self) -> str:
        """Which limit was reached, if any."""
        deadline = time.monotonic() + _GRACE
        looked = 0.0
        while True:
            now = time.monotonic()
            if now > deadline:
                return "time"
            if now - looked > _PAUSE:
                looked = now
                if _memory(self._process.pid) > self._limits.memory:
                    return "memory"
                if self._process.poll() is not None and not self._reading(0):
                    return ""
            began = self._got[self._report].startswith(STARTED)
            self._reading(min(_PAUSE, deadline - now))
            if not began and self._got[self._report].startswith(STARTED):
                deadline = time.monotonic() + self._limits.seconds
            if any(len(text) > self._limits.output for text in self._got.values()):
                return "output"
            if not self._is_heard():
                self._wait_for_end(deadline)
                return "" if self._process.poll() is not None else "time"

    def _is_heard(self) -> bool:
        return any(descriptor in self._selector.get_map() for descriptor in self._got)

    def _wait_for_end(self, deadline: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(deadline - time.monotonic(), 0))

    def _reading(self, limit: float) -> bool:
        """Read and write what can be; whether anything came."""
        came = False
        for key, _ in self._selector.select(limit):
            if key.fd in self._got:
                part = os.read(key.fd, 1 << 16)
                came = came or bool(part)
                self._got[key.fd] += part
                if not part:
                    self._selector.unregister(key.fd)
                elif key.fd == self._report and len(self._got[key.fd]) > len(STARTED):
                    self._tell()
            else:
                self._write(key.fd)
        return came

    def _tell(self) -> None:
        """The program has reported: now it may know the rest."""
        later, self._later = self._later, b""
        if later:
            self._sent[self._told] = memoryview(later)
            self._selector.register(self._told, selectors.EVENT_WRITE)
            self._is_told = True

    def _write(self, descriptor: int) -> None:
        rest = self._sent[descriptor]
        try:
            self._sent[descriptor] = rest[os.write(descriptor, rest) :] if rest else rest
        except BrokenPipeError:
            self._sent[descriptor] = memoryview(b"")
        if not self._sent[descriptor]:
            self._selector.unregister(descriptor)
            if descriptor == self._told and self._is_told:
                self._mine.remove(self._told)  # closed: there is no more to come
                os.close(self._told)
            if descriptor == self._input:
                with suppress(OSError):
                    self._process.stdin.close()  # type: ignore[union-attr]


def _memory(pid: int) -> int:
    """Bytes of memory of a process and all its descendants; what they share counts for each."""
    total, waiting = 0, [pid]
    while waiting:
        process = Path("/proc", str(waiting.pop()))
        with suppress(OSError, ValueError, IndexError):
            total += int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
            for task in (process / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
    return total
