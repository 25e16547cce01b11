"""``wdl pipeline status``: what has become of each stage, as a table."""

from datetime import datetime
from pathlib import Path

from wdl.pipeline.plan import Plan, Turn, turns
from wdl.pipeline.record import LOG, now
from wdl.pipeline.report import duration
from wdl.pipeline.runner import is_running


def print_status(plan: Plan, root: Path) -> None:
    """Print a row for each stage."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table("stage", "state", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("duration", justify="right")
    table.add_column("attempts", justify="right")
    table.add_column("log", overflow="fold")
    for row in status(plan, root):
        table.add_row(*row)
    Console().print(table)


def status(plan: Plan, root: Path) -> list[tuple[str, ...]]:
    """Name, state, duration, attempts and log of each step; why it is skipped, if it is.

    Beside the states of records there are ``killed`` (its pipeline was), ``changed`` (its inputs
    have, or those of a step before it: it will run again) and ``waiting``.
    """
    running = is_running(root)
    return [_row(turn, running) for turn in turns(plan, root)]


def _row(turn: Turn, running: bool) -> tuple[str, ...]:
    record, name = turn.record, turn.step.name
    if turn.step.skip:
        return name, "skipped", "", "", turn.step.skip
    if record is None:
        return name, "waiting", "", "", ""
    seconds, state = record.seconds, str(record.state)
    if record.state == "running" and running and record.began is not None:
        seconds += (now() - datetime.fromisoformat(record.began)).total_seconds()
    elif turn.before is None or record.inputs != turn.inputs:
        state = "changed"
    elif record.state == "running":
        state = "killed"
    elif record.state in ("failed", "skipped"):
        state = f"{record.state} ({record.exit_code})"
    log = turn.folder / LOG
    log = log.relative_to(Path.cwd()) if log.is_relative_to(Path.cwd()) else log
    return name, state, duration(seconds), str(record.attempts), str(log)
