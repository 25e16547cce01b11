"""JSON objects that models write, in every dress."""

import json
from typing import Any

import pytest

from wdl.remote.replies import find_object

OBJECT = {"reason": "a {brace} and ```", "verdict": "right"}
TEXT = json.dumps(OBJECT)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"  {TEXT}\n",
        f"Here it is:\n```json\n{TEXT}\n```\nDone.",
        f"```\n{TEXT}\n```",
        f"I think {TEXT} is right, not {{}}.",
        f'A set {{1, 2}} and {{"cut": then {TEXT}',
        f'<think>{{"verdict": "wrong"}}</think>{TEXT}',
        f"[1] {TEXT}",
    ],
)
def test_the_object_is_found(text: str) -> None:
    assert find_object(text) == OBJECT


@pytest.mark.parametrize("text", ["", "right", "[1, 2]", '{"verdict": "right"', "{" * 5000, "null"])
def test_there_is_none(text: str) -> None:
    assert find_object(text) is None


def test_what_nests_without_end_is_none() -> None:
    nested: Any = '{"a":' * 3000
    assert find_object(nested) is None
