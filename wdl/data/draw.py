"""Which samples a run trains on: the draw from the sampling weights."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Draw = Literal["with_replacement", "deduplicated", "without_replacement"]


def draw_samples(
    probabilities: NDArray[np.float64], count: int, mode: Draw, seed: int
) -> NDArray[np.int64]:
    """Draw ``count`` samples in O(samples + count); without replacement, with a sort on top.

    Args:
        probabilities: [samples] float64, sum to 1.
        count: Number of draws.
        mode: ``with_replacement`` keeps duplicates (the published system); ``deduplicated`` draws
            the same and removes them (paper v2, so fewer than ``count`` come back);
            ``without_replacement`` passes over all samples of positive weight, likelier ones
            first, and begins a new pass when one is used up (with equal weights: plain epochs).
        seed: The draw depends on this seed and the arguments alone.

    Returns:
        Sample indices, int64, in random order.
    """
    rng = np.random.default_rng(seed)
    if mode == "without_replacement":
        passes = [_one_pass(probabilities, rng)]
        while (missing := count - sum(map(len, passes))) > 0:
            passes.append(_one_pass(probabilities, rng)[:missing])
        return np.concatenate(passes)[:count]
    times = rng.multinomial(count, probabilities)
    if mode == "deduplicated":
        times = np.minimum(times, 1)
    return rng.permutation(np.repeat(np.arange(len(probabilities)), times))


def _one_pass(probabilities: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Weighted order without replacement: exponential clocks with rates ``probabilities``."""
    possible = np.flatnonzero(probabilities)
    clocks = rng.exponential(size=len(possible)) / probabilities[possible]
    return possible[np.argsort(clocks)]
