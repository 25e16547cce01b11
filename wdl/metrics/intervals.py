"""Confidence intervals of accuracies."""

import math

import torch
from torch import Tensor

Z_95 = 1.959963984540054
"""Standard normal quantile of a two-sided interval at 95 %."""


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """Wilson's score interval at 95 % for the probability behind ``successes`` of ``trials``.

    Wilson 1927, J. Am. Stat. Assoc. 22, 209-212. Unlike the normal approximation it stays within
    [0, 1] and does not shrink to a point when all or none succeed.

    Raises:
        ValueError: There are no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or not trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    share = successes / trials
    weight = Z_95**2 / trials
    centre = (share + weight / 2) / (1 + weight)
    half = Z_95 * math.sqrt(share * (1 - share) / trials + weight / (4 * trials)) / (1 + weight)
    return (
        centre - half if successes else 0.0,  # exactly, whatever rounding says
        centre + half if successes < trials else 1.0,
    )


def bootstrap_mean(values: Tensor, resamples: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """Expanded percentile bootstrap interval at 95 % for the mean of ``values``.

    Efron 1979, Ann. Stat. 7, 1-26; with Hesterberg's wider percentiles (2015, Am. Stat. 69,
    371-386, section 5.3), without which the interval of a small set is too narrow.

    Args:
        values: [n] one value per problem.
        resamples: How often n values are drawn with replacement.
        seed: Of the drawing; the same values always have the same interval.
    """
    return percentiles(resampled_means(values, resamples, seed), len(values))


def resampled_means(values: Tensor, resamples: int, seed: int) -> Tensor:
    """Means [resamples] float64 of as many values [n], drawn with replacement."""
    values = values.double().cpu()
    count = len(values)
    block = max(1, 4_000_000 // count)  # at most 32 MB at a time
    generator = torch.Generator().manual_seed(seed)
    means = []
    for start in range(0, resamples, block):
        shape = (min(block, resamples - start), count)
        means.append(values[torch.randint(count, shape, generator=generator)].mean(1))
    return torch.cat(means)


def percentiles(means: Tensor, count: int) -> tuple[float, float]:
    """The interval at 95 % that bootstrap ``means`` of ``count`` values span."""
    if count < 2:
        return float(means.min()), float(means.max())
    freedom = count - 1
    # Student's quantile by its expansion in 1 / freedom (Abramowitz and Stegun 26.7.5).
    student = (
        Z_95
        + (Z_95**3 + Z_95) / (4 * freedom)
        + (5 * Z_95**5 + 16 * Z_95**3 + 3 * Z_95) / (96 * freedom**2)
    )
    tail = 0.5 * math.erfc(student * math.sqrt(count / freedom) / math.sqrt(2))
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=means.dtype)).tolist()
    return low, high
