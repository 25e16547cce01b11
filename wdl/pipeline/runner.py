"""Runs the steps that are not done, in order, and keeps the report up to date."""

import contextlib
import fcntl
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

from wdl.errors import UserError
from wdl.pipeline.inputs import candidates
from wdl.pipeline.log import last_lines
from wdl.pipeline.plan import Plan, Turn, turns
from wdl.pipeline.process import Signals, run_logged
from wdl.pipeline.record import LOG, OUTCOME, Record, now
from wdl.pipeline.report import write_report
from wdl.pipeline.stages import Round
from wdl.system.outcome import VARIABLE

WRONG_INPUT = 2  # an exit code that another attempt would not change
LOCK = ".lock"
PID_BYTES = 20
ORPHAN_SECONDS, POLL_SECONDS = 60, 0.2

Ask = Callable[[str, str], str]
"""Takes a question and its choices, and returns the answer, as ``wdl.pipeline.ask`` says."""


def run_steps(
    plan: Plan,
    root: Path,
    wdl: Sequence[str] = (sys.executable, "-m", "wdl"),
    ask: Ask | None = None,
) -> None:
    """Run every step whose inputs are not those that it was done with, in a folder of ``root``.

    ``wdl`` runs the words of a step that has no launcher. ``ask``, if there is one, is asked before
    each round and after a failure.

    Raises:
        UserError: A step failed, or another pipeline runs in ``root``.
        SystemExit: A signal ended the pipeline, with the exit code of the step that it ended; or
            the answer was to quit, with 0.
    """
    with Signals().caught() as signals, _locked(root) as lock:
        attempt = partial(_attempt, wdl=wdl, signals=signals, lock=lock)
        asked: Round | None = None
        for turn in turns(plan, root):
            does, why = turn.decision
            if does == "run":
                if ask and turn.step.round not in (None, asked):
                    asked = turn.step.round
                    if ask(f"{asked}, from {turn.step.name}", "csq") == "quit":
                        print("wdl: the same command goes on from here", file=sys.stderr)
                        raise SystemExit(0)
                try:
                    _run(turn, attempt, ask)
                finally:
                    write_report(turn.steps, root)
            elif does == "skip":
                _leave_record(turn)
                print(f"{turn.title}: skipped, {why}", flush=True)
            elif turn.record is not None and turn.record.state == "skipped":
                hint = f"delete {turn.folder} to try it again"
                print(f"{turn.title}: skipped, {why}; {hint}", flush=True)
            else:
                print(f"{turn.title}: done, skipped", flush=True)
        write_report(turn.steps, root)
        print(f"report: {root / 'report.md'}", flush=True)


def _leave_record(turn: Turn) -> None:
    """Say in the folder of a step that is not run why it is not."""
    reason = turn.step.skip
    record = Record("", turn.step.shown(turn.step.words), "skipped", reason=reason)
    _set_aside(turn)
    record.write(turn.folder)


def _run(turn: Turn, attempt: Callable[..., Record], ask: Ask | None) -> None:
    """Run a step until it is done or to be done without; a failure is the YAML's or the user's."""
    step, folder = turn.step, turn.folder
    while True:
        record = turn.record
        if record is None or record.inputs != turn.inputs:
            _set_aside(turn)
            record = Record(turn.inputs, step.shown(step.words))
        folder.mkdir(parents=True, exist_ok=True)
        record = attempt(turn, record)
        if record.state == "done":
            return
        failed = f"stage {step.name} failed with exit code {record.exit_code}{_removed(turn)}"
        log = folder / LOG
        lines = [f"| {line}" for line in last_lines(log)]
        answer = "continue" if step.skippable else "quit"
        if ask:
            print("its last lines:", *lines, sep="\n", file=sys.stderr, flush=True)
            lines = []
            answer = ask(failed, "crsq" if step.skippable else "rsq")
        if answer == "continue":
            reason = f"it failed with exit code {record.exit_code}"
            replace(record, state="skipped", reason=reason).write(folder)
            print(f"{turn.title}: skipped, {reason}; log: {log}", flush=True)
            return
        if answer == "quit":
            end = "; its last lines:" if lines else ""
            again = "the same command goes on from here"
            raise UserError(f"{failed}; log: {log}; {again}{end}", *lines)
        turn = replace(turn, record=record)  # what the stage reads may have been mended


def _removed(turn: Turn) -> str:
    """What a command names in the folder of a stage before it and is not there, with the remedy."""
    words = [part for word in turn.step.words for part in re.split(r'[\[\]"]', word)]
    for path in candidates(words):
        for step in turn.steps[: turn.number]:
            folder = turn.folder.with_name(step.name).absolute()
            if path.is_relative_to(folder) and not path.exists():
                again = f"if it was removed, delete {folder}, and stage {step.name} runs again"
                return f"; there is no {path}: {again}"
    return ""


def _attempt(turn: Turn, record: Record, wdl: Sequence[str], signals: Signals, lock: int) -> Record:
    """Run a step as often as its retries say, until it is done or wrong input is its answer."""
    step, folder = turn.step, turn.folder
    log, outcome = folder / LOG, folder / OUTCOME
    for attempt in range(step.retries + 1):
        if attempt and step.wait:
            print(f"{turn.title}: waiting {step.wait:g} s", flush=True)
            time.sleep(step.wait)
        record = record.begin(folder)
        record.write(folder)
        # a fit on the same inputs goes on from its last checkpoint
        goes_on = record.attempts > 1 and step.words[0] == "fit"
        command = [*step.words, *(("--ckpt_path", "last") if goes_on else ())]
        again = f", attempt {attempt + 1} of {step.retries + 1}" if attempt else ""
        shown = step.shown(command)
        print(f"{turn.title}{again}: {shown}", flush=True)
        with log.open("a") as stream:
            stream.write(f"==> {now():%Y-%m-%d %H:%M:%S} UTC: {shown}\n")
        outcome.unlink(missing_ok=True)  # what an earlier attempt left is not of this one
        program = [*step.launcher, "wdl"] if step.launcher else wdl
        environment = {**step.environment, VARIABLE: str(outcome.absolute())}
        code = run_logged([*program, *command], log, signals, [lock], environment)
        record = record.end(code, stopped=signals.received is not None)
        record.write(folder)
        if signals.received:
            name = signals.received.name
            print(
                f"wdl: stage {step.name} ended with exit code {code} after {name}; the same "
                "command goes on from here",
                file=sys.stderr,
            )
            # 1 is what Python makes of a signal while it still starts
            raise SystemExit(128 + signals.received if code in (0, 1) else code)
        if code in (0, WRONG_INPUT):
            break
    return record


def _set_aside(turn: Turn) -> None:
    """Keep what an older run has left in the folder, if anything, under another name."""
    folder = turn.folder
    never_ran = turn.record is not None and not turn.record.inputs
    if folder.exists() and not never_ran:
        names = (folder.with_name(f"{folder.name}.superseded-{number}") for number in count(1))
        folder.rename(next(name for name in names if not name.exists()))


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
