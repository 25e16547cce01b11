"""Pairs: every chosen answer with every rejected one of its row, taken in an order by chance."""

import numpy as np
import pytest

from wdl.data.pairs import among_first, by_chance, every_pair, within


def listed(pairs: np.ndarray) -> list[tuple[int, int]]:
    return [(chosen, rejected) for chosen, rejected in pairs.T.tolist()]


def test_every_pair_of_a_row() -> None:
    rows = np.array([7, 7, 7, 3, 3, 9, 5, 5, 5, 5])  # the one of row 9 has nothing to beat
    is_chosen = np.array([1, 0, 0, 1, 0, 1, 1, 1, 0, 0], dtype=bool)
    assert listed(every_pair(rows, is_chosen)) == [
        *((0, 1), (0, 2)),
        (3, 4),
        *((6, 8), (6, 9), (7, 8), (7, 9)),
    ]


@pytest.mark.parametrize("is_chosen", [[], [True, True], [False]])
def test_without_a_pair(is_chosen: list[bool]) -> None:
    rows = np.zeros(len(is_chosen), dtype=np.int64)
    assert every_pair(rows, np.array(is_chosen, dtype=bool)).shape == (2, 0)


def many(seed: int, questions: int = 400, answers: int = 4) -> tuple[np.ndarray, ...]:
    """Pairs of questions with two chosen and two rejected answers; questions; random names."""
    asked = np.repeat(np.arange(questions), answers)
    names = np.random.default_rng(seed).integers(-(2**63), 2**63 - 1, len(asked))
    return every_pair(asked, np.arange(len(asked)) % answers < 2), asked, names


def test_the_order_is_by_question_and_then_by_chance() -> None:
    pairs, questions, names = many(seed=0)
    mixed = by_chance(pairs, questions, names)
    assert sorted(listed(mixed)) == sorted(listed(pairs))
    assert (np.diff(questions[mixed[0]]) >= 0).all()
    first = mixed[:, ::4] % 4
    counts = np.bincount(first[0] * 2 + first[1] - 2, minlength=4)
    assert counts.min() > 100 - 4 * np.sqrt(75)  # four standard deviations below a quarter


def test_the_order_depends_on_the_answers_alone() -> None:
    pairs, questions, names = many(seed=1)
    shuffle = np.random.default_rng(2).permutation(len(names))  # of the answers in the file
    place = np.argsort(shuffle)
    moved = by_chance(place[pairs][:, ::-1], questions[shuffle], names[shuffle])
    assert listed(shuffle[moved]) == listed(by_chance(pairs, questions, names))


def test_pairs_are_taken_while_there_is_room() -> None:
    pairs = np.array([[0, 0, 2, 2, 4], [1, 3, 3, 1, 5]])
    questions = np.array([0, 0, 0, 0, 1, 1])
    lengths = np.array([3, 5, 2, 9, 50, 60])
    assert within(pairs, questions, lengths, 110).tolist() == [True] * 5
    # 0 and 1 take 8; 3 has no room; 2 has, beside 1
    assert within(pairs, questions, lengths, 10).tolist() == [True, False, False, True, False]
    assert within(pairs, questions, lengths, 19).tolist() == [True] * 4 + [False]


def test_the_first_of_each_question() -> None:
    pairs = np.array([[0, 0, 0, 4, 6, 6], [1, 2, 3, 5, 7, 8]])
    questions = np.array([0, 0, 0, 0, 2, 2, 3, 3, 3])
    for count, kept in ((1, [0, 3, 4]), (2, [0, 1, 3, 4, 5]), (3, range(6))):
        assert np.flatnonzero(among_first(pairs, questions, count)).tolist() == list(kept)
