"""One command in a process of its own, shown on the screen and kept in a log.

On a terminal the command writes to a terminal too (a pseudo-terminal), so that progress bars look
as they do without a pipeline.

Programs of the environment that the pipeline runs in are found first, whether it is activated or
not.

Signals go on to the command, once, and whatever it has started ends with it. Should the pipeline
be killed outright, the kernel tells the command to end (Linux).
"""

import contextlib
import fcntl
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from wdl.pipeline.log import LineLog
from wdl.system.processes import die_with_parent

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
STEP_SECONDS = 0.2
SCREEN = 1


class Signals:
    """Forwards what would end the pipeline to the command that it runs.

    Between commands such a signal ends the pipeline itself, with exit code 128 + number.

    Attributes:
        received: The last signal that was forwarded.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._child: subprocess.Popen | None = None

    @contextlib.contextmanager
    def caught(self) -> Iterator["Signals"]:
        """Catch signals, on the main thread; what is ignored (``nohup``) stays so."""
        with _handled(FORWARDED, self._handle):
            yield self

    @contextlib.contextmanager
    def to(self, child: subprocess.Popen) -> Iterator[None]:
        """Forward them to ``child`` meanwhile."""
        self._child = child
        try:
            yield
        finally:
            self._child = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._child is None:
            raise SystemExit(128 + number)
        self.received = signal.Signals(number)
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGINT:  # as a terminal does
                os.killpg(self._child.pid, number)
            else:
                os.kill(self._child.pid, signal.SIGTERM if number == signal.SIGHUP else number)


def run_logged(
    command: Sequence[str],
    log: Path,
    signals: Signals,
    keep_open: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
) -> int:
    """Run ``command`` to its end and append what it writes to ``log``, as lines.

    It gets the ``signals``, keeps the descriptors ``keep_open``, such as a lock, and has the
    variables of ``environment`` on top of this process's.

    Returns:
        Its exit code; 128 + number if a signal ended it.
    """
    sys.stdout.flush()
    on_terminal = os.isatty(SCREEN)
    ours, theirs = _terminal() if on_terminal else os.pipe()
    with log.open("ab", buffering=0) as stream:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            env={
                **os.environ,
                "PATH": _search_path(),
                "PYTHONUNBUFFERED": "1",
                **(environment or {}),
            },
            # a terminal's Ctrl-C would reach it beside ours, and twice means stop at once
            start_new_session=True,
            preexec_fn=partial(_end_with, os.getpid()),  # safe: there is no other thread
            pass_fds=keep_open,
        )
        os.close(theirs)
        resizing = (signal.SIGWINCH,) if on_terminal else ()
        with signals.to(child), _handled(resizing, lambda *_: _copy_size(ours)):
            copy = _Copy(stream)
            _copy_until_end(ours, child, copy)
            code = child.wait()
        copy.finish()
        os.close(ours)
    return code if code >= 0 else 128 - code


def find_program(name: str) -> str | None:
    """Where the program that a command begins with lies, if anywhere."""
    return shutil.which(name, path=_search_path())


def _search_path() -> str:
    return os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))


def _end_with(parent: int) -> None:
    """Called in the child: be told to end when ``parent`` dies."""
    die_with_parent(by=signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)


def _terminal() -> tuple[int, int]:
    """Both ends of a terminal of the screen's size, which leaves line ends as they are."""
    ours, theirs = pty.openpty()
    _copy_size(ours)
    settings = termios.tcgetattr(theirs)
    settings[1] &= ~termios.OPOST
    termios.tcsetattr(theirs, termios.TCSANOW, settings)
    return ours, theirs


def _copy_size(terminal: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, fcntl.ioctl(SCREEN, termios.TIOCGWINSZ, bytes(8)))


@contextlib.contextmanager
def _handled(numbers: Sequence[int], handle: Callable[[int, Any], None]) -> Iterator[None]:
    """Where signals are handled in another way, but for those that are ignored."""
    before = {number: signal.getsignal(number) for number in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _copy_until_end(source: int, child: subprocess.Popen, copy: "_Copy") -> None:
    """Copy the command's output until it has ended, then end what it left behind."""
    wait = os.WEXITED | os.WNOWAIT  # its number stays taken until the caller waits for it
    open_ended = True
    while open_ended and os.waitid(os.P_PID, child.pid, wait | os.WNOHANG) is None:
        open_ended = _copy_some(source, copy, STEP_SECONDS)
    os.waitid(os.P_PID, child.pid, wait)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    while open_ended and select.select([source], [], [], 0)[0]:
        open_ended = _copy_some(source, copy, 0)


def _copy_some(source: int, copy: "_Copy", seconds: float) -> bool:
    """Wait for output; whether there can be more of it."""
    if not select.select([source], [], [], seconds)[0]:
        copy.pause()
        return True
    try:
        data = os.read(source, 1 << 16)
    except OSError:  # how a terminal says that the other end is closed
        return False
    copy.write(data)
    return bool(data)


class _Copy(LineLog):
    """Output on the screen as it comes, and in a log as lines."""

    _screen_is_there = True

    def write(self, data: bytes) -> None:
        """Show and log ``data``."""
        super().write(data)
        while data and self._screen_is_there:
            try:
                data = data[os.write(SCREEN, data) :]
            except OSError:  # the terminal was closed; the command need not care
                self._screen_is_there = False
