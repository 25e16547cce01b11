"""``wdl pipeline`` and ``wdl pipeline status``: what their options mean.

wdl pipeline --config configs/pipeline.yaml
wdl pipeline status --config configs/pipeline.yaml
"""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from wdl.config.paths import InputPath
from wdl.pipeline.inputs import Fingerprints, StepInputs
from wdl.pipeline.record import LOG, Record, now
from wdl.pipeline.report import duration
from wdl.pipeline.runner import Digest, check_launchers, is_running, run_steps
from wdl.pipeline.stages import Step, expand

Stages = list[dict[str, Any]]


def run_pipeline(here: InputPath, stages: Stages, root: str = "runs/pipeline") -> None:
    """Run the stages that are not done yet.

    A stage that is done is skipped; one that was killed goes on from its last checkpoint; one
    whose inputs changed runs again, and so do all after it.

    Args:
        here: What {here} in a command stands for; ``.`` in a YAML is that YAML's folder.
        stages: What to run, in order; each has a name, a command and perhaps retries and a
            launcher, or is a group of stages with rounds. See configs/pipeline.yaml.
        root: Folder of the pipeline; each stage gets a folder in it, with its log.txt.
    """
    folder = Path(os.path.abspath(root))
    steps = expand(stages, Path(here), folder)
    check_launchers(steps)
    inputs = _inputs(steps, Path(here), folder)
    inputs.check()
    run_steps(steps, folder, inputs.digest)


def show_status(here: InputPath, stages: Stages, root: str = "runs/pipeline") -> None:
    """Print what has become of each stage.

    Args:
        here: As in wdl pipeline.
        stages: As in wdl pipeline.
        root: As in wdl pipeline.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    folder = Path(os.path.abspath(root))
    steps = expand(stages, Path(here), folder)
    table = Table("stage", "state", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("duration", justify="right")
    table.add_column("attempts", justify="right")
    table.add_column("log", overflow="fold")
    for row in status(steps, folder, _inputs(steps, Path(here), folder).digest):
        table.add_row(*row)
    Console().print(table)


def status(steps: Sequence[Step], root: Path, digest: Digest) -> list[tuple[str, ...]]:
    """Name, state, duration, attempts and log of each step.

    Beside the states of records there are ``killed`` (its pipeline was), ``changed`` (its inputs
    have, or those of a step before it: it will run again) and ``waiting``.
    """
    rows: list[tuple[str, ...]] = []
    before: str | None = ""
    running = is_running(root)
    for number, step in enumerate(steps):
        record = Record.read(root / step.name)
        if record is None:
            rows.append((step.name, "waiting", "", "", ""))
            before = None
            continue
        seconds, state = record.seconds, str(record.state)
        changed = before is None or record.inputs != digest(number, before)
        if record.state == "running" and running and record.began is not None:
            seconds += (now() - datetime.fromisoformat(record.began)).total_seconds()
        elif changed:
            state = "changed"
        elif record.state == "running":
            state = "killed"
        elif record.state == "failed":
            state = f"failed ({record.exit_code})"
        log = root / step.name / LOG
        log = log.relative_to(Path.cwd()) if log.is_relative_to(Path.cwd()) else log
        rows.append((step.name, state, duration(seconds), str(record.attempts), str(log)))
        before = record.identity if state == "done" else None
    return rows


def _inputs(steps: list[Step], here: Path, root: Path) -> StepInputs:
    """What the steps depend on; all commands are parsed for it, unless that is remembered."""
    fingerprints = Fingerprints(root / ".fingerprints.json")
    return StepInputs(steps, here, root, fingerprints, fingerprints.read_by(steps, root))
