"""Processes that a test starts, and watches."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# says that it runs, and which signals it gets; ends at the second one
LISTEN = """
import os, signal, sys, time
heard = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda number, frame: heard.append(number))
print("pid", os.getpid())
while len(heard) < {count}:
    time.sleep(0.01)  # pause() would miss a signal just before it
print("heard", *map(int, heard))
sys.exit(7)
"""


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def free_port() -> int:
    """For processes to meet at."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def be_one_of_two(rank: int, port: int) -> None:
    """Called in one of two processes, as if torchrun had started it."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}


def ended(process: int) -> bool:
    """Whether it is gone, or dead and waiting for its parent to notice."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


@contextmanager
def killed_at_the_end(started: list[subprocess.Popen]) -> Iterator[None]:
    """Leave nothing behind, also when a test fails."""
    yield
    while started:
        child = started.pop()
        child.kill()
        child.wait()
