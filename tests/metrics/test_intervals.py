"""Intervals against typed-in values, exact coverage and simulation."""

from math import comb

import pytest
import torch

from wdl.metrics.intervals import bounded_mean, chance_of_mean, wilson


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


def shares(successes: int, trials: int) -> torch.Tensor:
    return torch.tensor([1.0] * successes + [0.0] * (trials - successes))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    # Newcombe 1998, Stat. Med. 17, 857-872, table I (method of Clopper and Pearson)
    [
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_of_zeros_and_ones_it_is_the_published_exact_interval(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert bounded_mean(shares(successes, trials)) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "trials"), [(1, 1), (3, 7), (12, 30), (299, 300)])
def test_limits_leave_two_and_a_half_per_cent_of_the_binomial(successes: int, trials: int) -> None:
    low, high = bounded_mean(shares(successes, trials))

    def at_least(count: int, p: float) -> float:
        return sum(
            comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in range(count, trials + 1)
        )

    assert at_least(successes, low) == pytest.approx(0.025, abs=1e-6)
    if successes < trials:
        assert 1 - at_least(successes + 1, high) == pytest.approx(0.025, abs=1e-6)


def test_chance_is_that_of_a_simulated_bootstrap() -> None:
    values = torch.tensor([0.1, 0.4, 0.4, 0.9, 0.65])
    torch.manual_seed(0)
    weights = torch.distributions.Dirichlet(torch.ones(6)).sample((400_000,))
    means = weights @ torch.tensor([0.1, 0.4, 0.4, 0.9, 0.65, 0.0])
    for point in (0.2, 0.35, 0.5):
        simulated = (means < point).double().mean().item()
        assert chance_of_mean(values, 0.0, point) == pytest.approx(simulated, abs=0.003)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("problems", [1, 5, 200])
def test_equal_values_are_no_certainty(value: float, problems: int) -> None:
    low, high = bounded_mean(torch.full((problems,), value))
    assert high - low > 0.5 / problems
    assert low - 1e-8 <= value <= high + 1e-8


@pytest.mark.parametrize("problems", [10, 30])
def test_covers_the_truth(problems: int) -> None:
    """Eight answers to problems of uniform difficulty, so that the true mean is a half."""
    torch.manual_seed(0)
    simulations = 100
    covered = 0
    for _ in range(simulations):
        chances = torch.rand(problems)
        scores = (torch.rand(problems, 8) < chances[:, None]).double().mean(1)
        low, high = bounded_mean(scores)
        covered += low <= 0.5 <= high
    assert covered / simulations > 0.93
