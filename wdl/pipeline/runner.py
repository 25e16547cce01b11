"""Runs the steps that are not done, in order, and keeps the report up to date."""

import contextlib
import fcntl
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path

from wdl.errors import UserError
from wdl.pipeline.process import Signals, find_program, run_logged
from wdl.pipeline.record import LOG, OUTCOME, Record, now
from wdl.pipeline.report import write_report
from wdl.pipeline.stages import Step
from wdl.system.outcome import VARIABLE

WRONG_INPUT = 2  # an exit code that another attempt would not change
LAST_LINES = 10
LOG_TAIL_BYTES = 1 << 14
LOCK = ".lock"
PID_BYTES = 20
ORPHAN_SECONDS, POLL_SECONDS = 60, 0.2

Digest = Callable[[int, str], str]
"""Inputs of the step at a position, given the identity of the run of the step before it."""


def run_steps(
    steps: Sequence[Step],
    root: Path,
    digest: Digest,
    wdl: Sequence[str] = (sys.executable, "-m", "wdl"),
) -> None:
    """Run every step whose inputs are not those that it was done with, in a folder of ``root``.

    ``wdl`` runs the words of a step that has no launcher.

    Raises:
        UserError: A step failed, or another pipeline runs in ``root``.
        SystemExit: A signal ended the pipeline, with the exit code of the step that it ended.
    """
    with Signals().caught() as signals, _locked(root) as lock:
        before = ""
        for number, step in enumerate(steps):
            folder = root / step.name
            inputs = digest(number, before)
            record = Record.read(folder)
            title = f"[{number + 1}/{len(steps)}] {step.name}"
            if record is not None and record.state == "done" and record.inputs == inputs:
                print(f"{title}: done, skipped", flush=True)
            else:
                try:
                    record = _run(step, folder, inputs, title, wdl, signals, lock)
                finally:
                    write_report(steps, root)
            before = record.identity
        write_report(steps, root)
        print(f"report: {root / 'report.md'}", flush=True)


def check_launchers(steps: Sequence[Step]) -> None:
    """Look for the programs that are to start the steps.

    Raises:
        UserError: One is not there; one line for each stage.
    """
    faults = [
        f"stage {step.name}: launcher: there is no program {step.launcher[0]}; correct or drop it"
        for step in steps
        if step.launcher and not find_program(step.launcher[0])
    ]
    if faults:
        raise UserError(*faults)


def _run(
    step: Step,
    folder: Path,
    inputs: str,
    title: str,
    wdl: Sequence[str],
    signals: Signals,
    lock: int,
) -> Record:
    record = Record.read(folder)
    if folder.exists() and (record is None or record.inputs != inputs):
        folder.rename(_unused(folder))
        record = None
    launcher = [*step.launcher, "wdl"]
    record = record or Record(inputs, shlex.join([*launcher, *step.words]))
    folder.mkdir(parents=True, exist_ok=True)
    log, outcome = folder / LOG, folder / OUTCOME
    for attempt in range(step.retries + 1):
        record = record.begin(folder)
        record.write(folder)
        # a fit on the same inputs goes on from its last checkpoint
        goes_on = record.attempts > 1 and step.words[0] == "fit"
        command = [*step.words, *(("--ckpt_path", "last") if goes_on else ())]
        again = f", attempt {attempt + 1} of {step.retries + 1}" if attempt else ""
        shown = shlex.join([*launcher, *command])
        print(f"{title}{again}: {shown}", flush=True)
        with log.open("a") as stream:
            stream.write(f"==> {now():%Y-%m-%d %H:%M:%S} UTC: {shown}\n")
        outcome.unlink(missing_ok=True)  # what an earlier attempt left is not of this one
        program = launcher if step.launcher else wdl
        code = run_logged(
            [*program, *command], log, signals, [lock], {VARIABLE: str(outcome.absolute())}
        )
        record = record.end(code, stopped=signals.received is not None)
        record.write(folder)
        if signals.received:
            name = signals.received.name
            print(
                f"wdl: stage {step.name} ended with exit code {code} after {name}; the same "
                "command goes on from here",
                file=sys.stderr,
            )
            raise SystemExit(code or 128 + signals.received)
        if code == 0:
            return record
        if code == WRONG_INPUT:
            break
    raise UserError(
        f"stage {step.name} failed with exit code {code}; log: {log}; the same command goes on "
        "from here; its last lines:",
        *(f"| {line}" for line in _last_lines(log)),
    )


def _last_lines(log: Path) -> list[str]:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        lines = stream.read().decode(errors="replace").splitlines()
    return [line for line in lines if line.strip()][-LAST_LINES:]


def _unused(folder: Path) -> Path:
    names = (folder.with_name(f"{folder.name}.superseded-{number}") for number in count(1))
    return next(name for name in names if not name.exists())


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[int]:
    """Hold the pipeline's folder; a descriptor that a step holds too.

    So a step that outlives a killed pipeline is waited for, and never runs twice at a time.
    """
    root.mkdir(parents=True, exist_ok=True)
    lock = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _acquire(lock, root)
        os.pwrite(lock, f"{os.getpid():<{PID_BYTES}}".encode(), 0)
        yield lock
    finally:
        os.close(lock)


def _acquire(lock: int, root: Path) -> None:
    began: float | None = None
    while not _try_to_lock(lock, fcntl.LOCK_EX):
        holder = int(os.pread(lock, PID_BYTES, 0) or 0)
        if _is_alive(holder):
            raise UserError(
                f"{root}: another pipeline runs here (process {holder}); wait for it, end it, or "
                "choose another --root"
            )
        if began is None:
            began = time.monotonic()
            print("waiting for a stage of a killed pipeline to end", flush=True)
        if time.monotonic() - began > ORPHAN_SECONDS:
            raise UserError(
                f"{root}: a stage of a killed pipeline still runs; end it (fuser "
                f"{root / LOCK} names the process), and give the same command again"
            )
        time.sleep(POLL_SECONDS)


def _try_to_lock(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return process > 0


def is_running(root: Path) -> bool:
    """Whether a pipeline, or a stage that outlived it, holds the folder."""
    if not (root / LOCK).is_file():
        return False
    with (root / LOCK).open() as lock:
        return not _try_to_lock(lock.fileno(), fcntl.LOCK_SH)
