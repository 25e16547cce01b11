"""Judgements that count only if they are right in both orders of the pictures."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from wdl.errors import UserError
from wdl.rounds.attempts import Attempt, by_question
from wdl.rounds.sides import balanced, both_sides, right_in_both_orders

FIRST, SECOND = "Image 1 is better", "Image 2 is better"


def attempts(item: str | None, order: int, rights: Iterable[bool]) -> list[Attempt]:
    """Attempts at one order of an item, in which the first picture is better in order 0."""
    answer = (FIRST, SECOND)[order]
    return [
        Attempt(
            id=f"{item}-{order}",
            attempt=number,
            messages=[{"role": "user", "content": "Which?"}],
            answer=answer,
            completion=f"{item} {order} {number} {is_right}",
            finish_reason="stop",
            new_tokens=3,
            verdict="right" if is_right else "wrong",
            item=item,
        )
        for number, is_right in enumerate(rights)
    ]


def test_who_always_names_the_first_is_never_right() -> None:
    always_first = [*attempts("a", 0, [True] * 4), *attempts("a", 1, [False] * 4)]
    kept, left_out = right_in_both_orders(always_first)
    assert left_out == 4
    assert {one.verdict for one in kept} == {"wrong"}


def test_the_attempt_of_the_same_number_decides() -> None:
    both = [*attempts("a", 0, [True, True, False]), *attempts("a", 1, [True, False, True])]
    kept, left_out = right_in_both_orders(both)
    assert left_out == 2
    assert [(one.id, one.attempt) for one in kept if one.verdict == "right"] == [
        ("a-0", 0),
        ("a-1", 0),
    ]


def test_rounds_are_not_mixed() -> None:
    """Right in the one order in one round, in the other order in another."""
    rounds = [
        *attempts("a", 0, [True]),
        *attempts("a", 1, [False]),
        *attempts("a", 0, [False]),
        *attempts("a", 1, [True]),
    ]
    kept, left_out = right_in_both_orders(rounds)
    assert left_out == 2
    assert {one.verdict for one in kept} == {"wrong"}


def test_questions_without_an_item_stay() -> None:
    texts = attempts(None, 0, [True, False])
    assert right_in_both_orders(texts) == (texts, 0)


def test_one_order_alone_is_refused() -> None:
    with pytest.raises(UserError, match="1 items were asked in one order only, such as a;"):
        right_in_both_orders(attempts("a", 0, [True]))


def test_as_many_of_each_place() -> None:
    groups: list[Attempt] = []
    for n in range(6):
        groups += attempts(f"{n}", 0, [True, False])
    groups += attempts("6", 1, [True, False])
    sides: dict[str, Any] = {name: both_sides(one) for name, one in by_question(groups).items()}
    left = balanced(sides, 1)
    assert Counter(one.right[0].answer for one in left.values()) == {FIRST: 1, SECOND: 1}
    assert balanced(sides, 1) == left
