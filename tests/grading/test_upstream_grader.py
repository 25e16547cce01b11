"""The grader of the published code: every row of the table of docs/upstream.md, and real data."""

import os
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY

from wdl.grading.grader import BaseGrader, Grader, Task
from wdl.grading.upstream import UpstreamGrader
from wdl.questions.benchmarks import BENCHMARKS
from wdl.questions.problems import load_problems

REAL = os.environ.get("WDL_BENCHMARK_DATA") and Path(os.environ["WDL_BENCHMARK_DATA"]).absolute()
PAGE = (REPOSITORY / "docs" / "upstream.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| `(.+)` \| (stop|length) \| `(.+)` \| (\w+) \| (\w+) \| (\w+) \| .+ \|$", re.MULTILINE
)
CHOICES = "Answer Choices: (A) 21 (B) 34 (C) 55 (D) f(x) (E) 13"


def case(kind: str, reference: str, completion: str, ended: str = "stop") -> Task:
    tolerance = 1e-3 if kind == "number" else 0.0
    question = f"What comes next? {CHOICES}" if kind == "letter" else "What is it?"
    return Task(kind, question, reference, completion, ended == "stop", tolerance)  # type: ignore[arg-type]


def statuses(grader: BaseGrader, tasks: list[Task]) -> list[str]:
    with grader:
        return [grade.status for grade in grader.grade(tasks)]


def test_the_page_says_how_both_judge() -> None:
    rows = ROW.findall(PAGE)
    table = PAGE.split("| why |")[1].split("\n\n")[0]
    assert len(rows) == len(table.splitlines()) - 2 > 20
    assert CHOICES in PAGE
    tasks = [case(kind, reference, text, ended) for text, ended, reference, kind, *_ in rows]
    judged = zip(statuses(Grader(), tasks), statuses(UpstreamGrader(), tasks), strict=True)
    assert [*judged] == [(ours, theirs) for *_, ours, theirs in rows]


def test_the_page_counts_the_hard_cases() -> None:
    lines = Path(__file__).with_name("hard_cases.jsonl").read_text(encoding="utf-8").splitlines()
    assert f"On the {len(lines)} hard cases" in PAGE


def test_letters_and_options() -> None:
    expected = {
        ("E", r"\boxed{13}"): "correct",
        ("E", r"\boxed{21}"): "wrong",
        ("D", r"\boxed{f(x)}"): "wrong",  # options with parentheses are not seen
        ("D", r"\boxed{d}"): "correct",
        ("C", r"The answer is A, no, the answer: (C)"): "correct",
        ("C", r"The answer is B, or \boxed{C}, so the answer is A"): "correct",
    }
    tasks = [case("letter", *key) for key in expected]
    assert statuses(UpstreamGrader(), tasks) == list(expected.values())


def test_what_cannot_be_judged() -> None:
    with UpstreamGrader(workers=1) as grader:
        unreadable, after = grader.grade([case("number", "$$", "5"), case("number", "5", "$5$")])
    assert unreadable.status == "could_not_grade"
    assert "cannot read the reference" in unreadable.detail
    assert after.status == "wrong"


def test_a_limit_costs_one_row() -> None:
    tower = case("expression", "5", r"\boxed{9^{9^{9^{9}}}}")
    with UpstreamGrader(workers=1, limit=0.0) as grader:
        (grade,) = grader.grade([tower])
    assert (grade.status, grade.detail) == ("could_not_grade", "no answer within 0 s")


@pytest.mark.skipif(REAL is None, reason="WDL_BENCHMARK_DATA names no folder")
@pytest.mark.parametrize(("name", "file"), [("amc23", "amc23.json"), ("gsm8k", "gsm8k_test.json")])
def test_boxed_references_are_right(name: str, file: str) -> None:
    assert isinstance(REAL, Path)
    benchmark = BENCHMARKS[name]
    tasks = [
        Task(benchmark.kind, one.question, one.reference, f"\\boxed{{{one.reference}}}", True)
        for one in load_problems(benchmark, REAL / file)
    ]
    assert statuses(UpstreamGrader(), tasks) == ["correct"] * len(tasks)
