"""The right and the wrong attempts at one question, as something to train with."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wdl.errors import UserError
from wdl.rounds.attempts import Attempt, Key, Verdict
from wdl.system.digests import lot


@dataclass(frozen=True)
class Sides:
    """A question with its right and wrong attempts, none with the same text as another.

    ``contradictory`` is how many texts were held to be right and wrong, and are neither.
    """

    prompt: list[dict[str, str]]
    right: list[Attempt]
    wrong: list[Attempt]
    contradictory: int
    images: tuple[str, ...] = ()

    @property
    def pairs(self) -> int:
        """How many there are."""
        return len(self.right) * len(self.wrong)

    @property
    def size(self) -> int:
        """How many attempts there are."""
        return len(self.right) + len(self.wrong)

    def capped(self, most: int | None, seed: int) -> "Sides":
        """With at most so many pairs: the longer side loses attempts by lot."""
        if most is None or self.pairs <= most:
            return self
        right, wrong = (
            sorted(side, key=lambda one: lot(seed, one.id, one.completion))
            for side in (self.right, self.wrong)
        )
        while len(right) * len(wrong) > most:
            max(right, wrong, key=len).pop()
        return replace(self, right=right, wrong=wrong)

    def row(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "prompt": self.prompt,
            "chosen": [attempt.completion for attempt in self.right],
            "rejected": [attempt.completion for attempt in self.wrong],
            **({"images": self.images} if self.images else {}),
        }


def one_prompt(attempts: Sequence[Attempt]) -> list[dict[str, str]]:
    """The messages that all attempts at a question were asked by.

    Raises:
        UserError: They differ.
    """
    first = attempts[0]
    for other in attempts:
        if other.question != first.question:
            raise UserError(
                f"--graded: question {first.id} is {first.question!r}, and elsewhere "
                f"{other.question!r}; an id is that of one text"
            )
        if other.messages != first.messages:
            raise UserError(
                f"--graded: question {first.id} was asked by {first.messages}, and in another "
                f"round by {other.messages}; give rounds of one system prompt"
            )
    return first.messages


def both_sides(attempts: Sequence[Attempt]) -> Sides:
    """The right and the wrong attempts at a question that a model can be trained on.

    A text that one judge held to be right and another wrong is neither. White space around it does
    not count.

    Raises:
        UserError: They were not all asked by the same messages.
    """
    texts: dict[Verdict | None, dict[str, Attempt]] = {"right": {}, "wrong": {}}
    for one in attempts:
        if one.is_whole and one.verdict in texts:
            texts[one.verdict].setdefault(one.completion.strip(), one)
    right, wrong = texts["right"], texts["wrong"]
    both = right.keys() & wrong.keys()
    return Sides(
        one_prompt(attempts),
        [one for text, one in right.items() if text not in both],
        [one for text, one in wrong.items() if text not in both],
        len(both),
        attempts[0].images,
    )


def right_in_both_orders(attempts: Sequence[Attempt]) -> tuple[list[Attempt], int]:
    """The attempts without those that are right in one order of their pictures alone.

    Questions of one item ask the same of the same pictures, in another order each; an attempt at
    one of them goes with the one of the same number, in the same round, at the others. Whoever
    always names the first picture is right half of the time.

    Returns:
        What is left, and how many attempts are left out. Attempts at no item stay.

    Raises:
        UserError: An item was asked in one order only.
    """
    asked = Counter[Key]()
    rounds = []  # in which each attempt was made: a round makes no two of the same key
    items: dict[str, dict[str, set[tuple[int, int]]]] = {}
    for one in attempts:
        rounds.append(asked[one.key])
        asked[one.key] += 1
        if one.item is not None:
            right = items.setdefault(one.item, {}).setdefault(one.id, set())
            right |= {(rounds[-1], one.attempt)} if one.verdict == "right" else set()
    if alone := [name for name, questions in items.items() if len(questions) < 2]:
        raise UserError(
            f"--graded: {len(alone)} items were asked in one order only, such as {alone[0]}; ask "
            "the other one too, or give --both_orders false"
        )
    both = {name: set.intersection(*questions.values()) for name, questions in items.items()}
    kept = [
        one
        for number, one in zip(rounds, attempts, strict=True)
        if one.item is None or one.verdict != "right" or (number, one.attempt) in both[one.item]
    ]
    return kept, len(attempts) - len(kept)


def balanced(sides: Mapping[str, Sides], seed: int) -> dict[str, Sides]:
    """As many questions of each reference, by lot, among those that are asked in both orders.

    Otherwise a model learns to prefer a place.
    """
    classes: dict[str, list[str]] = {}
    for name, one in sides.items():
        if one.right[0].item is not None:
            classes.setdefault(one.right[0].answer, []).append(name)
    fewest = min(map(len, classes.values()), default=0)
    dropped = {
        name
        for names in classes.values()
        for name in sorted(names, key=lambda name: lot(seed, "balance", name))[fewest:]
    }
    return {name: one for name, one in sides.items() if name not in dropped}


def told_contradictory(texts: int) -> str:
    """So many texts that are neither right nor wrong, as words; none as nothing."""
    return f"; {texts} texts, right by one verdict and wrong by another, left out" * (texts > 0)


def told_one_order(attempts: int) -> str:
    """So many attempts that are right in one order of their pictures alone, as words."""
    return f"; {attempts} attempts, right in one order of the pictures alone, left out" * (
        attempts > 0
    )
