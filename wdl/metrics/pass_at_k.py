"""How often at least one of k answers is right, estimated without bias from n >= k answers."""

import math

import torch
from torch import Tensor

from wdl.metrics.per_problem import Share


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Probability that k answers drawn from ``samples`` without replacement hold a right one.

    1 - C(n-c, k) / C(n, k), the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, Eq. 1):
    its expectation does not depend on n, while that of 1 - (1 - c/n)^k does.

    Args:
        correct: Right answers c.
        samples: All answers n.
        k: How many are drawn.

    Raises:
        ValueError: Not 0 <= c <= n and 1 <= k <= n.
    """
    if not (0 <= correct <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} of {correct} right answers among {samples}")
    return 1 - math.comb(samples - correct, k) / math.comb(samples, k)


class PassAtK(Share):
    """Mean of :func:`pass_at_k` over problems.

    Args:
        k: How many answers are drawn.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k

    def update(self, correct: Tensor) -> None:
        """Add problems, ``correct`` [P, n] bool, n at least k."""
        samples = correct.shape[1]
        values = [pass_at_k(int(count), samples, self.k) for count in correct.sum(1)]
        self.values.append(torch.tensor(values, dtype=torch.float64, device=correct.device))
