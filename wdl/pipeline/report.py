"""``report.json`` and ``report.md``: how long each stage took, how fast it was, what came of it.

    {"seconds": 61.2, "stages": [{"name": "sft", "state": "done", "seconds": 40.1, "attempts": 1,
     "throughput": {"tokens_per_second": 5120.0}, "metrics": {"val/loss": 0.41, ...}, ...}],
     "groups": [{"rounds": [{"round": 1, "seconds": 30.5, "done": 3, "skipped": 1, "failed": 0,
     "failures": 2}, ...], "values": {"grade: pass@1": [0.25, 0.5], ...}, "drawn": [...]}]}

Amounts and metrics are those that the stage has left as ``outcome.json`` in its folder. Throughput
is over the whole stage: loading, grading and all attempts included. ``groups`` are those of stages
that have more rounds than one; ``failures`` are attempts, and a value is null where a round has
none. ``drawn`` in ``report.svg`` is what a stage has left in all rounds in which it was done.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wdl.pipeline.log import last_lines
from wdl.pipeline.record import LOG, OUTCOME, Record
from wdl.pipeline.stages import Step
from wdl.system.files import write_json, write_text
from wdl.system.outcome import read_outcome

FIGURE = "report.svg"


def write_report(steps: Sequence[Step], root: Path) -> None:
    """Write both to the pipeline's folder, atomically."""
    stages = [_stage(step, root / step.name) for step in steps]
    seconds = round(sum(stage.get("seconds", 0) for stage in stages), 1)
    groups = _groups(steps, stages)
    write_json(root / "report.json", {"seconds": seconds, "stages": stages, "groups": groups})
    write_text(root / "report.md", _markdown(stages, groups, seconds))


def duration(seconds: float) -> str:
    """As 4.2 s, 3 m 05 s or 2 h 07 m."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} m"


def _stage(step: Step, folder: Path) -> dict[str, Any]:
    stage: dict[str, Any] = {"name": step.name}
    if step.round and step.round.count > 1:
        stage["round"] = step.round.number
    record = Record.read(folder)
    if record is None:
        return {**stage, "state": "waiting"}
    log = folder / LOG
    stage |= {**asdict(record), "log": str(log)}
    del stage["inputs"]
    if record.failures and log.is_file():
        stage["last_line"] = next(iter(last_lines(log)[-1:]), "")
    if record.state == "done":
        amounts, metrics = read_outcome(folder / OUTCOME)
        stage["throughput"] = {
            f"{unit}_per_second": round(amount / record.seconds, 3)
            for unit, amount in amounts.items()
            if record.seconds
        }
        stage["amounts"] = dict(amounts)
        stage["metrics"] = dict(metrics)
    return stage


def _groups(steps: Sequence[Step], stages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each group with rounds to compare: how each went, and values by round."""
    found: dict[int, dict[str, Any]] = {}
    ran: set[tuple[str, int]] = set()
    for step, stage in zip(steps, stages, strict=True):
        turn = step.round
        if turn is None or turn.count == 1:
            continue
        empty = {"seconds": 0.0, "done": 0, "skipped": 0, "failed": 0, "failures": 0}
        rounds = [{"round": number + 1, **empty} for number in range(turn.count)]
        group = found.setdefault(turn.group, {"rounds": rounds, "values": {}})
        one = group["rounds"][turn.number - 1]
        one["seconds"] = round(one["seconds"] + stage.get("seconds", 0), 1)
        one["failures"] += len(stage.get("failures", ()))
        if stage["state"] in ("done", "skipped", "failed"):
            one[stage["state"]] += 1
        if stage["state"] == "done":
            ran.add((step.stage, turn.number))
        for name, value in {**stage.get("amounts", {}), **stage.get("metrics", {})}.items():
            values = group["values"].setdefault(f"{step.stage}: {name}", [None] * turn.count)
            values[turn.number - 1] = value
    for group in found.values():
        group["drawn"] = [
            name
            for name, values in group["values"].items()
            if not any(
                value is None and (name.partition(": ")[0], number) in ran
                for number, value in enumerate(values, start=1)
            )
        ]
    return list(found.values())


def _markdown(
    stages: Sequence[dict[str, Any]], groups: Sequence[dict[str, Any]], seconds: float
) -> str:
    lines = ["# Pipeline", "", f"{duration(seconds)} in all."]
    rows: list[Sequence[str]] = []
    for stage in stages:
        speed = ", ".join(
            f"{value:,.4g} {name.replace('_per_second', '/s')}"
            for name, value in stage.get("throughput", {}).items()
        )
        took = duration(stage["seconds"]) if "seconds" in stage else ""
        state = f"{stage['state']}: {stage['reason']}" if stage.get("reason") else stage["state"]
        rows.append((stage["name"], state, took, str(stage.get("attempts", "")), speed))
    lines += _table("stage|state|duration>|attempts>|throughput", rows)
    for group in groups:
        lines += ["", "## By round"]
        numbers = [f"round {one['round']}" for one in group["rounds"]]
        head = "round>|duration>|done>|skipped>|failed>|failed attempts>"
        rows = [
            (str(number), duration(took), *map(str, counts))
            for number, took, *counts in (one.values() for one in group["rounds"])
        ]
        lines += _table(head, rows)
        rows = [
            (name, *("" if value is None else _shown(value) for value in values))
            for name, values in group["values"].items()
        ]
        lines += _table("|".join(["", *(f"{number}>" for number in numbers)]), rows)
    if any(group["drawn"] for group in groups):
        lines += ["", f"![by round]({FIGURE})"]
    broken = [
        (stage["name"], ", ".join(map(str, stage["failures"])), stage.get("last_line", ""))
        for stage in stages
        if stage.get("failures")
    ]
    if broken:
        lines += [
            "",
            "## Failed attempts",
            *_table("stage|exit codes|last line of the log", broken),
        ]
    for stage in stages:
        if stage.get("metrics") and "round" not in stage:
            rows = [(name, _shown(value)) for name, value in stage["metrics"].items()]
            lines += ["", f"## {stage['name']}", *_table("metric|value>", rows)]
    return "\n".join(lines) + "\n"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:,.4g}"


def _table(head: str, rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table after an empty one; columns are parted by |, > makes one of numbers."""
    columns = head.split("|")
    lines = ["", "| " + " | ".join(column.rstrip(">") for column in columns) + " |"]
    lines += ["|" + "|".join("--:" if column.endswith(">") else "---" for column in columns) + "|"]
    for row in rows:
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in row) + " |")
    return lines
