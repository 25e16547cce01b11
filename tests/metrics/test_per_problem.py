"""pass@k against brute force, its closed form and its expectation; votes counted by hand."""

from itertools import combinations
from math import comb

import pytest

from wdl.metrics.per_problem import majority, pass_at_k


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_equals_brute_force(samples: int) -> None:
    for correct in range(samples + 1):
        answers = [True] * correct + [False] * (samples - correct)
        for k in range(1, samples + 1):
            draws = list(combinations(answers, k))
            expected = sum(any(draw) for draw in draws) / len(draws)
            assert pass_at_k(correct, samples, k) == pytest.approx(expected)


def test_equals_the_product_form() -> None:
    """1 - prod_{i=n-c+1}^{n} (1 - k/i), as Chen et al. compute it."""
    for correct, samples, k in [(3, 10, 4), (1, 200, 100), (50, 64, 2)]:
        product = 1.0
        for i in range(samples - correct + 1, samples + 1):
            product *= 1 - k / i
        assert pass_at_k(correct, samples, k) == pytest.approx(1 - product)


@pytest.mark.parametrize("samples", [4, 16, 64])
def test_expectation_does_not_depend_on_the_number_of_samples(samples: int) -> None:
    chance, k = 0.3, 3
    expectation = sum(
        comb(samples, c) * chance**c * (1 - chance) ** (samples - c) * pass_at_k(c, samples, k)
        for c in range(samples + 1)
    )
    assert expectation == pytest.approx(1 - (1 - chance) ** k)


@pytest.mark.parametrize(("correct", "samples", "k"), [(1, 2, 3), (3, 2, 1), (0, 2, 0), (-1, 2, 1)])
def test_refuses_impossible_counts(correct: int, samples: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@"):
        pass_at_k(correct, samples, k)


@pytest.mark.parametrize(
    ("correct", "answers", "value"),
    [
        ([True, True, False], [0, 0, 1], 1.0),
        ([True, False, False], [0, 1, 1], 0.0),
        ([True, False, False], [0, 1, 2], 1 / 3),  # a tie of three
        ([True, False, False], [0, None, None], 1.0),  # no answer is no vote
        ([False, False, False], [None, None, None], 0.0),
    ],
)
def test_majority(correct: list[bool], answers: list[int | None], value: float) -> None:
    assert majority(correct, answers) == pytest.approx(value)
