"""Intervals against typed-in values, exact coverage and simulation."""

from math import comb

import pytest
import torch

from wdl.metrics.intervals import bootstrap_mean, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe 1998, Stat. Med. 17, 857-872, table I (score method without continuity correction)
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_published_values(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_ends_at_the_bounds() -> None:
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_impossible_counts(successes: int, trials: int) -> None:
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, trials)


@pytest.mark.parametrize("trials", [30, 40, 254, 500])
def test_wilson_covers_the_truth(trials: int) -> None:
    """Exactly, summed over the binomial distribution, where n·p and n·(1-p) are at least 5.

    Between neighbouring p the coverage of every interval jumps, because counts are whole.
    """
    intervals = [wilson(count, trials) for count in range(trials + 1)]
    coverages = []
    for p in (step / 100 for step in range(1, 100)):
        if min(trials * p, trials * (1 - p)) >= 5:
            coverages.append(
                sum(
                    comb(trials, count) * p**count * (1 - p) ** (trials - count)
                    for count, (low, high) in enumerate(intervals)
                    if low <= p <= high
                )
            )
    assert 0.945 < sum(coverages) / len(coverages) < 0.957
    assert min(coverages) > 0.925
    assert max(coverages) < 0.975
    assert sum(0.93 <= share <= 0.97 for share in coverages) >= 0.97 * len(coverages)


@pytest.mark.parametrize("problems", [30, 100])
def test_bootstrap_covers_the_truth(problems: int) -> None:
    """Eight answers to problems of uniform difficulty, so that the true mean is a half."""
    torch.manual_seed(0)
    simulations = 400
    covered = 0
    for simulation in range(simulations):
        chances = torch.rand(problems)
        scores = (torch.rand(problems, 8) < chances[:, None]).double().mean(1)
        low, high = bootstrap_mean(scores, resamples=1000, seed=simulation)
        covered += low <= 0.5 <= high
    assert 0.92 < covered / simulations < 0.98  # 95 % ± 3 standard errors of the simulation


def test_bootstrap_depends_on_nothing_but_its_arguments() -> None:
    scores = torch.linspace(0, 1, 30) ** 2
    first = bootstrap_mean(scores)
    torch.manual_seed(1)
    assert bootstrap_mean(scores) == first
    assert bootstrap_mean(scores, seed=1) != first


def test_bootstrap_of_one_problem_is_that_problem() -> None:
    assert bootstrap_mean(torch.tensor([0.25])) == (0.25, 0.25)
