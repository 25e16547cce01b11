"""Pipelines that a test answers, or kills at some moment; what they leave."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from wdl.pipeline.record import Record, now
from wdl.system.journal import read_entries


class Dialogue:
    """A pipeline that asks, and is answered through a pipe."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def asks(self) -> str:
        """What it prints up to its next question, or to its end."""
        assert self.process.stdout is not None
        printed = b""
        while not printed.endswith(b"? ") and (byte := self.process.stdout.read(1)):
            printed += byte
        return printed.decode()

    def hears(self, answer: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{answer}\n".encode())
        self.process.stdin.flush()
        return self.asks()


def moment(folder: Path, seconds: float, chance: random.Random) -> Callable[[], bool]:
    """Whether the time to kill has come: some time into a stage, or while it keeps results."""
    wait = chance.uniform(0, seconds)
    before = {*results_so_far(folder)}
    keeps = chance.random() < 0.5
    attempts = attempts_at(folder)

    def has_come() -> bool:
        record = Record.read(folder)
        if record is None or record.attempts == attempts:
            return False
        if record.state != "running" or (keeps and {*results_so_far(folder)} - before):
            return True
        return seconds_in(record) > wait + 10 * keeps

    return has_come


def running(folder: Path, seconds: float, chance: random.Random) -> Callable[[], bool]:
    """Whether a stage has run for some of the time that it takes, and still runs."""
    wait = chance.uniform(0, 0.9 * seconds)
    attempts = attempts_at(folder)

    def has_come() -> bool:
        record = Record.read(folder)
        if record is None or record.attempts == attempts or record.state != "running":
            return False
        return seconds_in(record) > wait

    return has_come


def seconds_in(record: Record) -> float:
    """Since the stage began."""
    assert record.began is not None
    return (now() - datetime.fromisoformat(record.began)).total_seconds()


def attempts_at(folder: Path) -> int:
    record = Record.read(folder)
    return 0 if record is None else record.attempts


def results_so_far(folder: Path) -> Iterator[tuple[str, int]]:
    """Files of checkpoints and exports, and journals with a result, which change as they grow."""
    for file in folder.glob("version_*/checkpoints/*"):
        yield file.name, 0
    for file in folder.glob("version_*/.strong.*"):
        yield file.name, 0
    for file in folder.glob(".*.journal"):
        with suppress(FileNotFoundError):  # the stage is done
            if entries := sum(1 for _ in read_entries(file)):
                yield file.name, entries


def reaches(process: subprocess.Popen, has_come: Callable[[], bool]) -> bool:
    """Wait until then; False if the process ends before."""
    while not has_come():
        if process.poll() is not None:
            return False
        time.sleep(0.002)
    return True


def kill(process: subprocess.Popen, with_its_stage: bool) -> None:
    """Outright: the pipeline alone, or with all that it has started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (os.killpg if with_its_stage else os.kill)(process.pid, signal.SIGKILL)
    for child in children if with_its_stage else ():
        with suppress(ProcessLookupError):
            os.killpg(int(child), signal.SIGKILL)
    process.wait()


def forget(first: str, names: Sequence[str], root: Path) -> None:
    """Remove what a stage and those after it have left."""
    for name in names[names.index(first) :]:
        shutil.rmtree(root / name, ignore_errors=True)


def results(root: Path, names: Sequence[str]) -> dict[str, bytes]:
    """What rounds are for: pools, attempts, verdicts, pairs, rows and weights."""
    files = (
        *("samples.jsonl", "graded.jsonl", "pool.jsonl", "rows.jsonl", "description.json"),
        *("train.parquet", "validation.parquet", "latest/strong/model.safetensors"),
    )
    paths = [root / name / file for name in names for file in files]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths if path.is_file()}
