"""Tests of two models on the same problems."""

import math
from dataclasses import dataclass

from torch import Tensor

from wdl.metrics.intervals import percentiles, resampled_means


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided exact McNemar test: p-value for as many gains and losses by chance.

    McNemar 1947, Psychometrika 12, 153-157, with the binomial distribution in place of its
    approximation: under equal models each problem that only one of them solves is a fair coin.

    Args:
        gained: Problems that only the second model solves.
        lost: Problems that only the first model solves.
    """
    total = gained + lost
    tail = sum(math.comb(total, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**total)


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences, its interval at 95 %, and a two-sided p-value."""

    mean: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(differences: Tensor, resamples: int = 10_000, seed: int = 0) -> Difference:
    """Bootstrap over problems of a difference of means.

    Args:
        differences: [P] second model's value minus the first's, problem by problem.
        resamples: How often P problems are drawn with replacement.
        seed: Of the drawing.

    Returns:
        The percentile interval, and the p-value that belongs to it: twice the share of resamples
        on the other side of 0, at least 2 / (resamples + 1).
    """
    means = resampled_means(differences, resamples, seed)
    low, high = percentiles(means, len(differences))
    below, above = int((means <= 0).sum()), int((means >= 0).sum())
    p_value = min(1.0, 2 * (min(below, above) + 1) / (resamples + 1))
    return Difference(float(differences.double().mean()), low, high, p_value)
