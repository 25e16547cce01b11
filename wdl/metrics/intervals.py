"""Confidence intervals of accuracies, and of differences between them."""

import math

import torch
from torch import Tensor

Z_95 = 1.959963984540054
"""Standard normal quantile of a two-sided interval at 95 %."""
TAIL = 0.025
_STEP = 0.05
_LOG_TIMES = torch.arange(-30, 30, _STEP, dtype=torch.float64)


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


def bounded_mean(values: Tensor, low: float = 0.0, high: float = 1.0) -> tuple[float, float]:
    """Gaffke's interval at 95 % for the mean of values [n] that lie between two bounds.

    Gaffke 2005, "Three test statistics for a nonparametric one-sided hypothesis on the mean of a
    nonnegative variable", Math. Methods Stat. 14, 451-467; as an interval Learned-Miller and Thomas
    2020, arXiv 1905.06208. The limits are quantiles of a Bayesian bootstrap (Rubin 1981, Ann. Stat.
    9, 130-134) that holds one value more, the lower bound for the lower limit and the upper bound
    for the upper one: what has not been seen yet. For values at the bounds alone it is the
    interval of Clopper and Pearson; it is never a point, however equal the values are.
    """
    return _limit(values, low, TAIL), _limit(values, high, 1 - TAIL)


def chance_of_mean(values: Tensor, extra: float, point: float) -> float:
    """Chance that the mean of a Bayesian bootstrap of ``values`` and ``extra`` is below ``point``.

    The weights are Dirichlet(1, ..., 1), gamma variables over their sum, so that it is the chance
    that a sum of weighted gamma variables is negative: an integral of its characteristic function
    (Gil-Pelaez 1951, Biometrika 38, 481-482), by the trapezoidal rule over logarithmic time. Exact
    to about 1e-10.
    """
    every = torch.cat([values.double().cpu(), torch.tensor([extra], dtype=torch.float64)])
    distinct, counts = every.unique(return_counts=True)
    gaps = distinct - point
    scale = (counts * gaps.square()).sum().sqrt()
    if not scale:
        return 1.0
    moved = _LOG_TIMES.exp()[:, None] / scale * gaps  # [times, distinct]
    phase = (counts * moved.atan()).sum(1)
    size = (-0.5 * counts * moved.square().log1p()).sum(1).exp()
    return min(max(0.5 - _STEP / math.pi * (phase.sin() * size).sum().item(), 0.0), 1.0)


def _limit(values: Tensor, extra: float, chance: float) -> float:
    """Where the chance is reached, by bisection."""
    low, high = min(extra, float(values.min())), max(extra, float(values.max()))
    while high - low > 1e-9:
        middle = (low + high) / 2
        reached = chance_of_mean(values, extra, middle) >= chance
        low, high = (low, middle) if reached else (middle, high)
    return (low + high) / 2
