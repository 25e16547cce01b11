"""LogiQA 2.0 and ReClor in their own schemas: read, and graded as a person would."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wdl.data.rows import RowError
from wdl.errors import UserError
from wdl.grading.grader import Grader, Task
from wdl.grading.options import parse_choices
from wdl.questions.benchmarks import BENCHMARKS
from wdl.questions.problems import Problem, load_problems, parse_problem

CONTEXT = 'Two plans: A) save "now", or\nB) spend later. A: why? B: because.'
OPTIONS = [
    "A plan that follows (B) is better than one that follows A), as the town has said.",
    "Each of the 11 members of the town's council said: “save now”. It never did.",
    "A is taller than B because of what\nC) and D) say of the 11 members of the council",
    "No plan is any good. That holds for the 12 members of the council, too.",
]
LOGIQA = {
    "id": 7,
    "answer": 1,
    "text": CONTEXT,
    "question": "What follows?",
    "options": OPTIONS,
    "type": {"Sufficient Conditional Reasoning": True},
}
RECLOR = {
    "context": CONTEXT,
    "question": "What follows?",
    "answers": OPTIONS,
    "label": 1,
    "id_string": "val_7",
}


@pytest.mark.parametrize(
    "row",
    [LOGIQA, {**LOGIQA, "type": "{}"}, RECLOR, {**RECLOR, "label": "1"}],
)
def test_each_schema_keeps_context_question_and_options(row: dict[str, Any]) -> None:
    problem = parse_problem(row, "0")
    assert problem.id in ("7", "val_7")
    assert problem.reference == "B"
    assert problem.question.startswith(f"{CONTEXT}\n\nWhat follows?\n\nA) A plan that")
    expected = [" ".join(text.split()) for text in OPTIONS]
    found = parse_choices(problem.question)
    assert [text.rstrip(".") for text in found.values()] == [o.rstrip(".") for o in expected]
    assert list(found) == list("ABCD")


@pytest.mark.parametrize("label", [None, "", -1])
def test_a_row_of_the_test_split_names_the_other(label: Any) -> None:
    with pytest.raises(RowError, match="use the validation split"):
        parse_problem({**RECLOR, "label": label}, "0")


def test_answers_without_a_label_are_no_options() -> None:
    row = {"question": "Capital?", "answers": ["Paris", "City of Paris"], "answer": "Paris"}
    assert parse_problem(row, "0") == Problem("0", "Capital?", "Paris")


@pytest.mark.parametrize("key", ["context", "passage", "article", "paragraph", "story"])
def test_a_context_is_never_dropped(key: str) -> None:
    assert parse_problem({key: "It is 2.", "question": "What?", "answer": 2}, "0").question == (
        "It is 2.\n\nWhat?"
    )
    with pytest.raises(RowError, match=f"'{key}' is 5; give it a text"):
        parse_problem({key: 5, "question": "What?", "answer": 2}, "0")


def test_a_text_is_used_or_refused() -> None:
    row = {"question": "What?", "answer": 2}
    with pytest.raises(RowError, match="'text' may belong to the question"):
        parse_problem({"text": "It is 2.", **row}, "0")
    assert parse_problem({"text": "### What?\n2", **row}, "0").question == "What?"
    with pytest.raises(RowError, match="both context and passage"):
        parse_problem({"context": "x", "passage": "y", **row}, "0")


def test_what_occurs_twice_in_the_published_set_stays(write_rows: Callable[..., Path]) -> None:
    twice = {**LOGIQA, "options": ["same", "right", "same", "other"]}
    file = write_rows([LOGIQA, twice, twice], "logiqa.jsonl")
    benchmark = replace(BENCHMARKS["logiqa2"], rows=None)
    assert [one.id for one in load_problems(benchmark, file)] == ["7", "7-2", "7-3"]
    with pytest.raises(UserError, match="gives an option twice"):
        load_problems(replace(benchmark, repeats=False), file)


def statuses(row: dict[str, Any], completions: list[str]) -> list[str]:
    problem = parse_problem(row, "0")
    with Grader(workers=1) as grader:
        return [
            grade.status
            for grade in grader.grade(
                Task("letter", problem.question, problem.reference, completion, complete=True)
                for completion in completions
            )
        ]


@pytest.mark.parametrize("right", range(4))
@pytest.mark.parametrize("row", [LOGIQA, RECLOR])
def test_long_options_are_graded_by_letter_and_by_text(row: dict[str, Any], right: int) -> None:
    row = {**row, "answer" if "text" in row else "label": right}
    text, letter, other = OPTIONS[right], "ABCD"[right], "ABCD"[right - 1]
    good = [
        rf"\boxed{{{letter}}}",
        f"The answer is ({letter})",
        f"</think> <answer>{letter}) {text}</answer>",
        text,
        f"{text.upper()}",
        f"The correct answer is: {text}",
        f"<answer>{text}</answer>",
        rf"\boxed{{{text}}}",
        rf"\boxed{{\text{{{text}}}}}",
    ]
    bad = [
        rf"\boxed{{{other}}}",
        f"The answer is ({letter}) or ({other}).",
        rf"\boxed{{{letter}, {other}}}",
        OPTIONS[right - 1],
        rf"\boxed{{{text[: len(text) // 2]}}}",
        rf"\boxed{{{text} {OPTIONS[right - 1]}}}",
        "The 11 members of the council said so, and the answer is 11.",
    ]
    assert statuses(row, good) == ["correct"] * len(good), json.dumps(good)
    assert statuses(row, bad) == ["wrong"] * len(bad), json.dumps(bad)
