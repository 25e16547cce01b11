"""Fixtures of the evaluation's tests."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest


def wait_until_gone(pid: int) -> None:
    """Fail unless a process ends within ten seconds."""
    for _ in range(100):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return
        if state == "Z":
            return
        time.sleep(0.1)
    pytest.fail(f"process {pid} is still there")


@pytest.fixture(name="wait_until_gone")
def _wait_until_gone() -> Callable[[int], None]:
    return wait_until_gone
