"""The grader on cases that a person decided, and on what would stop a lesser one."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from wdl.grading import grader as grading
from wdl.grading.grader import STATUSES, Grade, Grader, Task
from wdl.grading.options import parse_choices
from wdl.questions.benchmarks import Kind

CASES = [json.loads(line) for line in Path(__file__).with_name("hard_cases.jsonl").open()]
QUESTION = "How many? (A) 18 (B) 20 (C) 21 (D) 24 (E) 27"


def task(answer: str, reference: str, kind: Kind = "expression", question: str = "") -> Task:
    return Task(kind, question, reference, f"</think> \\boxed{{{answer}}}", complete=True)


def test_grades_as_a_person_would() -> None:
    tasks = [
        Task(
            kind=case["kind"],
            question=case.get("question", ""),
            reference=case["reference"],
            completion=case["completion"],
            complete=case.get("complete", True),
            tolerance=1e-3 if case["kind"] == "number" else 0.0,
            thinking=case.get("thinking", False),
        )
        for case in CASES
    ]
    with Grader(limit=5) as grader:
        grades = grader.grade(tasks)
    wrong = [
        f"{case['why']}: {grade} instead of {case['status']}"
        for case, grade in zip(CASES, grades, strict=True)
        if grade.status != case["status"]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_table_is_large_and_mixed() -> None:
    assert len(CASES) >= 100
    assert set(_counts("status")) == set(STATUSES)
    assert min(_counts("kind").values()) >= 20
    assert len(
        {
            (c["kind"], c["reference"], c["completion"], c.get("complete"), c.get("thinking"))
            for c in CASES
        }
    ) == len(CASES)


def children() -> set[str]:
    """Process ids of this process's children."""
    files = [thread / "children" for thread in Path("/proc/self/task").iterdir()]
    return {child for file in files for child in file.read_text().split()}


def _counts(key: str) -> Counter:
    return Counter(case[key] for case in CASES)


def test_a_hanging_answer_costs_its_limit_and_no_other_answer() -> None:
    tower = task("10^{10^{10^{10}}}", "5")
    before = children()
    began = time.monotonic()
    with Grader(workers=1, limit=2) as grader:
        grades = grader.grade([task("2+3", "5"), tower, task("x^2", "x \\cdot x")])
    assert time.monotonic() - began < 30
    assert [grade.status for grade in grades] == ["correct", "could_not_grade", "correct"]
    assert grades[1].detail == "no answer within 2 s"
    assert children() == before


def test_a_crashing_worker_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grader, "worker_module", "wdl.evaluation.there_is_no_such_module")
    with Grader(workers=1) as grader:
        (grade,) = grader.grade([task("2+3", "5")])
    assert grade == Grade("could_not_grade", "2+3", "ended with exit code 1")


def test_whatever_goes_wrong_costs_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that cannot be started, a reference that is no text, a missing question."""
    monkeypatch.setattr(grading.sys, "executable", "/there/is/no/such/python")
    tasks = [
        task("2+3", "5"),
        task("5", 5),  # type: ignore[arg-type]
        Task("letter", None, "C", "\\boxed{21}", complete=True),  # type: ignore[arg-type]
        task("5", "5"),
    ]
    with Grader(workers=2) as grader:
        grades = grader.grade(tasks)
    assert [grade.status for grade in grades] == ["could_not_grade"] * 3 + ["correct"]
    assert grades[0].detail.startswith("FileNotFoundError")


def test_a_reference_that_nobody_can_read_is_no_wrong_answer() -> None:
    with Grader(workers=1) as grader:
        (grade,) = grader.grade([task("5", "")])
    assert grade.status == "could_not_grade"


def test_what_can_be_decided_by_looking_starts_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Grader, "worker_module", "wdl.evaluation.there_is_no_such_module")
    with Grader() as grader:
        grades = grader.grade(
            [
                task("5", "5.0", "number"),
                task("6", "5", "number"),
                task("C", "C", "letter", QUESTION),
                task("x^2", "x^2"),
            ]
        )
    assert [grade.status for grade in grades] == ["correct", "wrong", "correct", "correct"]


@pytest.mark.parametrize(
    ("question", "choices"),
    [
        (QUESTION, {"A": "18", "B": "20", "C": "21", "D": "24", "E": "27"}),
        (
            "Which?\nA)1/2 m\nB)x > 3, or so\nC)none",
            {"A": "1/2 m", "B": "x > 3, or so", "C": "none"},
        ),
        ("Which? (A) $5.50 (B) 5,500", {"A": "$5.50", "B": "5,500"}),
        ("(A) x (B) y (C) z (D) u (E) v (F) w", dict(zip("ABCDEF", "xyzuvw", strict=True))),
        ("Given (I) and (II): (A) 1 (B) 2", {"A": "1", "B": "2"}),
        ("A car (B) is fast.", {}),
        ("No choices here.", {}),
    ],
)
def test_choices_of_a_question(question: str, choices: dict[str, str]) -> None:
    assert parse_choices(question) == choices
