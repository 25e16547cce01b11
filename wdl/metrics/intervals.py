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
    """Percentile bootstrap interval at 95 % for the mean of ``values``.

    Efron 1979, Ann. Stat. 7, 1-26, with the deviations stretched by sqrt(n / (n - 1)), without
    which the interval of a small set is too narrow (Hesterberg 2015, Am. Stat. 69, 371-386).

    Args:
        values: [n] one value per problem.
        resamples: How often n values are drawn with replacement.
        seed: Of the drawing; the same values always have the same interval.
    """
    means = resampled_means(values, resamples, seed)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def resampled_means(values: Tensor, resamples: int, seed: int) -> Tensor:
    """Means [resamples] float64 of bootstrap resamples, stretched as :func:`bootstrap_mean` says."""
    values = values.double().cpu()
    count = len(values)
    generator = torch.Generator().manual_seed(seed)
    means = torch.cat(
        [
            values[torch.randint(count, (size, count), generator=generator)].mean(1)
            for size in _blocks(resamples, count)
        ]
    )
    mean = values.mean()
    return mean + (means - mean) * math.sqrt(count / max(count - 1, 1))


def _blocks(resamples: int, count: int) -> list[int]:
    """Sizes of blocks of resamples that stay below 32 MB each."""
    block = max(1, 4_000_000 // count)
    return [min(block, resamples - start) for start in range(0, resamples, block)]
