"""Multiple choice in the schemas that sets have: letters in the question, a letter as answer."""

from typing import Any

import pytest

from wdl.data.rows import RowError
from wdl.questions.problems import parse_problem

LINES = "A) 4\nB) 7\nC) 9"


@pytest.mark.parametrize(
    "row",
    [
        {"choices": ["4", "7", "9"], "answer": 1},
        {"choices": [4, 7, 9], "answer": 1},
        {"choices": ["4", "7", "9"], "answer": "7"},
        {"options": ["A) 4", "B) 7", "C) 9"], "correct": "B"},
        {"options": "A) 4 B) 7 C) 9", "answer": "b"},
        {"options": {"A": "4", "B": "7", "C": "9"}, "answer": ["B"]},
        {"options": {"a": "4", "b": "7", "c": "9"}, "answer": "b"},
        {"choices": {"text": ["4", "7", "9"], "label": ["1", "2", "3"]}, "answerKey": "2"},
        {"choices": {"text": ["4", "7", "9"], "label": ["A", "B", "C"]}, "answerKey": "B"},
        {"options": ["4", "7", "9"], "choices": None, "correct": "B", "id": None},
    ],
)
def test_options_get_letters_and_the_reference_is_one(row: dict[str, Any]) -> None:
    problem = parse_problem({"question": "Which is prime?", **row}, "0")
    assert (problem.id, problem.reference) == ("0", "B")
    assert problem.question == f"Which is prime?\n\n{LINES}"


def test_letters_go_beyond_e() -> None:
    row = {"question": "?", "choices": [str(n) for n in range(10)], "answer": 9}
    problem = parse_problem(row, "0")
    assert problem.reference == "J" and problem.question.endswith("J) 9")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"choices": ["4", "7"], "answer": 2}, "counted from 0 to 1"),
        ({"choices": ["4", "7"], "answer": -1}, "counted from 0 to 1"),
        ({"choices": ["4", "7"], "answer": "C"}, "none of the options"),
        ({"choices": ["4", "7"], "answer": True}, "none of the options"),
        ({"choices": ["4", "7"], "answer": ["A", "B"]}, "names 2 right options"),
        ({"choices": ["4", "7"]}, "the row has no answer"),
        ({"choices": ["4"], "answer": 0}, "has 1 options"),
        ({"choices": ["4", "4"], "answer": 0}, "gives an option twice"),
        ({"choices": ["4", " "], "answer": 0}, "holds an empty option"),
        ({"choices": ["4", None], "answer": 0}, "neither text nor number"),
        ({"choices": 4, "answer": 0}, "must be a list, an object or a text"),
        ({"choices": "four or seven", "answer": 0}, "has 0 options"),
        ({"choices": ["4", "7"], "options": ["4", "7"], "answer": 0}, "both options and choices"),
        (
            {"choices": {"text": ["4", "7"], "label": ["1"]}, "answer": "1"},
            "must be a list, an object or a text",
        ),
        ({"question": 5, "answer": 3}, "'question' is 5; give it a text"),
        ({"answer": {"value": 3}}, "give it one text or number"),
        ({"answer": 3, "id": [1]}, "'id' is neither text nor number"),
        ({"answer": 3, "input": 4}, "'input' is 4; give it a text"),
    ],
)
def test_what_is_no_problem_says_why(row: dict[str, Any], fault: str) -> None:
    with pytest.raises(RowError, match=fault):
        parse_problem({"question": "Which is prime?", **row}, "0")
