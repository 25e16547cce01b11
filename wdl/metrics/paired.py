"""The test of two models on the same problems, and of several such tests together."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from wdl.metrics.intervals import bounded_mean, chance_of_mean

SMALLEST_P = 1e-9
"""Smaller p-values are not told apart: they are computed with errors of 1e-10."""


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences, its interval at 95 %, and a two-sided p-value.

    The p-value is below 0.05 if and only if the interval excludes 0. ``smallest_p`` is the p-value
    if every problem had moved as far as it can: no result of as few problems is below it.
    """

    mean: float
    low: float
    high: float
    p_value: float
    smallest_p: float


def paired_test(differences: Tensor, bound: float = 1.0) -> Difference:
    """Gaffke's test and interval (see :func:`bounded_mean`) for a mean of paired differences.

    The one problem more, which has not been seen, moves as far as any did: for equal models every
    difference might as well have had the other sign. With one answer per problem, all differences
    being -1, 0 or 1, the p-value is that of McNemar's test (1947, Psychometrika 12, 153-157),
    two-sided and exact by the binomial distribution.

    Args:
        differences: [P] second model's value minus the first's, problem by problem.
        bound: How far the unseen problem moves if none did.
    """
    reach = differences.abs().max().item() or bound
    low, high = bounded_mean(differences, -reach, reach)
    below = chance_of_mean(differences, -reach, 0.0)
    above = 1 - chance_of_mean(differences, reach, 0.0)
    mean = float(differences.double().mean())
    smallest = max(2.0 ** (1 - len(differences)), SMALLEST_P)
    p_value = min(max(2 * min(below, above), smallest), 1.0)
    return Difference(mean, low, high, p_value, smallest)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of tests that are looked at together, adjusted.

    Holm 1979, Scand. J. Stat. 6, 65-70: the chance that any true null hypothesis is among those
    with an adjusted value below 0.05 is below 5 %.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
