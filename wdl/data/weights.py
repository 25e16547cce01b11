"""Sampling weights from the entropies of the two branches (selection, "WD-DS").

Each function maps per-sample mean token entropies (nats, float64, shape [samples]) to
probabilities that sum to 1. With Δ = H_strong − H_weak and [u]₊ = max(u, 0):

    normalised   α·H_weak/ΣH_weak + β·[−Δ]₊/Σ[−Δ]₊ + γ·[Δ]₊/Σ[Δ]₊      (the published system)
    v1           α·H_weak + β·[−Δ]₊ + γ·[Δ]₊                           (arXiv 2602.08222 v1)
    v2           α·[−Δ]₊ + β·H_strong + γ·[Δ]₊                         (arXiv 2602.08222 v2, Eq. 9)
    uniform      1
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wdl.errors import UserError

Entropies = NDArray[np.float64]
Scheme = Literal["normalised", "v1", "v2", "uniform"]


def _share(term: Entropies) -> Entropies:
    """The term as shares of its own sum; a term that is zero everywhere has no mass to give."""
    total = term.sum()
    return term / total if total > 0 else term


def _normalised(
    weak: Entropies, strong: Entropies, alpha: float, beta: float, gamma: float
) -> Entropies:
    delta = strong - weak
    return (
        alpha * _share(weak)
        + beta * _share(np.maximum(-delta, 0))
        + gamma * _share(np.maximum(delta, 0))
    )


def _v1(weak: Entropies, strong: Entropies, alpha: float, beta: float, gamma: float) -> Entropies:
    delta = strong - weak
    return alpha * weak + beta * np.maximum(-delta, 0) + gamma * np.maximum(delta, 0)


def _v2(weak: Entropies, strong: Entropies, alpha: float, beta: float, gamma: float) -> Entropies:
    delta = strong - weak
    return alpha * np.maximum(-delta, 0) + beta * strong + gamma * np.maximum(delta, 0)


_SCHEMES: dict[str, Callable[[Entropies, Entropies, float, float, float], Entropies]] = {
    "normalised": _normalised,
    "v1": _v1,
    "v2": _v2,
}


def sampling_weights(
    scheme: Scheme,
    weak: Entropies,
    strong: Entropies,
    alpha: float = 0.1,
    beta: float = 0.8,
    gamma: float = 0.1,
) -> Entropies:
    """Probability of drawing each sample.

    Args:
        scheme: One of the forms above.
        weak: [samples] mean token entropy under the weak branch, nats.
        strong: [samples] the same under the strong branch.
        alpha: Weight of the first term of the scheme.
        beta: Weight of the second term.
        gamma: Weight of the third term.

    Returns:
        [samples] float64, sums to 1.

    Raises:
        UserError: An entropy is negative or not a number (the sample is named), or every weight
            is zero.
    """
    if scheme == "uniform":
        return np.full(len(weak), 1 / len(weak))
    for name, entropy in (("weak", weak), ("strong", strong)):
        bad = np.flatnonzero(~(entropy >= 0) | np.isinf(entropy))
        if len(bad):
            raise UserError(
                f"data.weights: the {name} entropy of sample {bad[0]} is {entropy[bad[0]]} "
                f"({len(bad)} such samples); entropies are finite and not negative, score again"
            )
    weights = _SCHEMES[scheme](weak, strong, alpha, beta, gamma)
    if weights.sum() <= 0:
        raise UserError(f"data.weights: {scheme} gives every sample weight 0; use uniform")
    return weights / weights.sum()


def effective_sample_size(probabilities: Entropies) -> float:
    """(Σp)² / Σp²: how many equally likely samples the distribution is worth."""
    return float(probabilities.sum() ** 2 / np.square(probabilities).sum())
