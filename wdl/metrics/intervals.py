"""Confidence intervals of accuracies."""

import math

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
