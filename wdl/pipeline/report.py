"""``report.json`` and ``report.md``: how long each stage took, how fast it was, what came of it.

    {"seconds": 61.2, "stages": [{"name": "sft", "state": "done", "seconds": 40.1, "attempts": 1,
     "throughput": {"tokens_per_second": 5120.0}, "metrics": {"val/loss": 0.41, ...}, ...}]}

Amounts and metrics are those that the stage has left as ``outcome.json`` in its folder. Throughput
is over the whole stage: loading, grading and all attempts included.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wdl.pipeline.record import LOG, OUTCOME, Record
from wdl.pipeline.stages import Step
from wdl.system.files import write_json, write_text
from wdl.system.outcome import read_outcome


def write_report(steps: Sequence[Step], root: Path) -> None:
    """Write both to the pipeline's folder, atomically."""
    stages = [_stage(step.name, root / step.name) for step in steps]
    seconds = round(sum(stage.get("seconds", 0) for stage in stages), 1)
    write_json(root / "report.json", {"seconds": seconds, "stages": stages})
    write_text(root / "report.md", _markdown(stages, seconds))


def duration(seconds: float) -> str:
    """As 4.2 s, 3 m 05 s or 2 h 07 m."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} m"


def _stage(name: str, folder: Path) -> dict[str, Any]:
    record = Record.read(folder)
    if record is None:
        return {"name": name, "state": "waiting"}
    stage = {"name": name, **asdict(record), "log": str(folder / LOG)}
    del stage["inputs"]
    if record.state == "done":
        amounts, metrics = read_outcome(folder / OUTCOME)
        stage["throughput"] = {
            f"{unit}_per_second": round(amount / record.seconds, 3)
            for unit, amount in amounts.items()
            if record.seconds
        }
        stage["metrics"] = dict(metrics)
    return stage


def _markdown(stages: Sequence[dict[str, Any]], seconds: float) -> str:
    lines = ["# Pipeline", "", f"{duration(seconds)} in all.", ""]
    lines += ["| stage | state | duration | attempts | throughput |", "|---|---|--:|--:|---|"]
    for stage in stages:
        speed = ", ".join(
            f"{value:,.4g} {name.replace('_per_second', '/s')}"
            for name, value in stage.get("throughput", {}).items()
        )
        took = duration(stage["seconds"]) if "seconds" in stage else ""
        attempts = stage.get("attempts", "")
        lines.append(f"| {stage['name']} | {stage['state']} | {took} | {attempts} | {speed} |")
    for stage in stages:
        if stage.get("metrics"):
            lines += ["", f"## {stage['name']}", "", "| metric | value |", "|---|--:|"]
            lines += [f"| {name} | {value:.4g} |" for name, value in stage["metrics"].items()]
    return "\n".join(lines) + "\n"
