"""The report: JSON and Markdown, of stages of every kind and in every state."""

import json
from pathlib import Path

import pytest

from wdl.pipeline.record import LOG, OUTCOME, Record, State
from wdl.pipeline.report import FIGURE, duration, write_report
from wdl.pipeline.report_figure import write_figure
from wdl.pipeline.stages import Round, Step
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


def three_rounds() -> list[Step]:
    """Grades of three rounds, of which the second is skipped and the third has one metric more."""
    steps = []
    for number in (1, 2, 3):
        folder = ROOT / f"grade-{number}"
        state: State = "skipped" if number == 2 else "done"
        reason = "it failed | with exit code 1" if number == 2 else ""
        Record("i", "wdl", state, 2, 10.0, failures=[1, 9], reason=reason).write(folder)
        (folder / LOG).write_text("begin\nno | answer\n")
        metrics = {"pass@1": number / 4, **({"cost": 1.5} if number == 3 else {})}
        write_json(folder / OUTCOME, {"amounts": {"questions": 8}, "metrics": metrics})
        steps.append(Step(f"grade-{number}", ("tiny",), round=Round(2, number, 3)))
    return [*steps, Step("last", ("tiny",))]


def test_a_report_by_round() -> None:
    write_report(three_rounds(), ROOT)
    (group,) = json.loads((ROOT / "report.json").read_text())["groups"]
    none = {"skipped": 0, "failed": 0}
    assert group["rounds"] == [
        {"round": 1, "seconds": 10.0, "done": 1, **none, "failures": 2},
        {"round": 2, "seconds": 10.0, "done": 0, "skipped": 1, "failed": 0, "failures": 2},
        {"round": 3, "seconds": 10.0, "done": 1, **none, "failures": 2},
    ]
    assert group["values"] == {
        "grade: questions": [8, None, 8],
        "grade: pass@1": [0.25, None, 0.75],
        "grade: cost": [None, None, 1.5],
    }
    assert group["drawn"] == ["grade: questions", "grade: pass@1"]
    lines = (ROOT / "report.md").read_text().splitlines()
    assert "| grade-2 | skipped: it failed \\| with exit code 1 | 10.0 s | 2 |  |" in lines
    assert "| 2 | 10.0 s | 0 | 1 | 0 | 2 |" in lines
    assert "| grade: pass@1 | 0.25 |  | 0.75 |" in lines
    assert "| grade-2 | 1, 9 | no \\| answer |" in lines
    assert not any(line.startswith("## grade") for line in lines)


def test_a_figure_of_what_all_rounds_have() -> None:
    write_report(three_rounds(), ROOT)
    write_figure(ROOT)
    drawn = (ROOT / FIGURE).read_text()
    assert "grade: pass@1" in drawn and "grade: questions" in drawn and "cost" not in drawn
    write_figure(ROOT)
    assert (ROOT / FIGURE).read_text() == drawn
    write_report(STEPS, ROOT)
    write_figure(ROOT)
    assert not (ROOT / FIGURE).exists()
    write_figure(ROOT / "nowhere")
