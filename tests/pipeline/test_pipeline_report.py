"""The report: JSON and Markdown, of stages of every kind and in every state."""

import json
from pathlib import Path

import pytest

from wdl.pipeline.record import OUTCOME, Record
from wdl.pipeline.report import duration, write_report
from wdl.pipeline.stages import Step
from wdl.system.files import write_json

ROOT = Path("out")
STEPS = [Step(name, ("tiny",)) for name in ("silent", "joint", "broken", "next")]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4.16, "4.2 s"),
        (59.9, "59.9 s"),
        (185, "3 m 05 s"),
        (7625, "2 h 07 m"),
        (90000, "25 h 00 m"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_report_of_everything() -> None:
    for name, state in (("silent", "done"), ("joint", "done"), ("broken", "failed")):
        Record("inputs", "wdl", state, 2, 50.0, exit_code=0).write(ROOT / name)  # type: ignore[arg-type]
    metrics = {"val/loss": 0.5, "exact_match/strong_after": 0.75}
    left = {"amounts": {"tokens": 5000, "steps": 10}, "metrics": metrics}
    write_json(ROOT / "joint" / OUTCOME, left)
    write_json(ROOT / "broken" / OUTCOME, left)
    write_report(STEPS, ROOT)

    report = json.loads((ROOT / "report.json").read_text())
    stages = {stage["name"]: stage for stage in report["stages"]}
    assert report["seconds"] == 150
    assert stages["silent"]["throughput"] == stages["silent"]["metrics"] == {}
    assert stages["joint"]["throughput"] == {"tokens_per_second": 100.0, "steps_per_second": 0.2}
    assert stages["joint"]["metrics"] == metrics
    assert stages["broken"]["state"] == "failed" and "metrics" not in stages["broken"]
    assert stages["next"] == {"name": "next", "state": "waiting"}

    lines = (ROOT / "report.md").read_text().splitlines()
    assert "| joint | done | 50.0 s | 2 | 100 tokens/s, 0.2 steps/s |" in lines
    assert "| next | waiting |  |  |  |" in lines
    assert "| exact_match/strong_after | 0.75 |" in lines
