"""Sampling weights from the entropies of the branches (selection, "WD-DS").

Each form maps mean token entropies of samples (nats, float64) to probabilities that sum to 1. A
history has a row for every round, the last one of the strong branch and the one before it of the
weak branch. With Δ = H_strong − H_weak and [u]₊ = max(u, 0):

    normalised   α·H_weak/ΣH_weak + β·[−Δ]₊/Σ[−Δ]₊ + γ·[Δ]₊/Σ[Δ]₊      (the published system)
    v1           α·H_weak + β·[−Δ]₊ + γ·[Δ]₊                           (arXiv 2602.08222 v1)
    v2           α·[−Δ]₊ + β·H_strong + γ·[Δ]₊                         (arXiv 2602.08222 v2, Eq. 9)
    brownboost   difficulty^α · trend^β · time_penalty^γ · easy_penalty    (three rounds or more)
    uniform      1
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wdl.errors import UserError

Entropies = NDArray[np.float64]
Scheme = Literal["normalised", "v1", "v2", "brownboost", "uniform"]
Terms = dict[str, Entropies]

BROWNBOOST_ROUNDS = 3
EASY_QUANTILE, HARD_QUANTILE = 0.2, 0.8
PATIENCE = 2
PENALTY_RATE = 1.0
TREND_RANGE = (0.1, 10.0)
# Keeps easy samples, whose difficulty is 0, from never being drawn.
LEAST_DIFFICULTY = 1e-6


def _share(term: Entropies) -> Entropies:
    """The term as shares of its own sum; a term that is zero everywhere has no mass to give."""
    total = term.sum()
    return term / total if total > 0 else term


def _terms(scheme: Scheme, weak: Entropies, strong: Entropies) -> Terms:
    """What a sum weighs by α, β and γ, in this order."""
    decrease, increase = np.maximum(weak - strong, 0), np.maximum(strong - weak, 0)
    if scheme == "v2":
        return {"decrease": decrease, "strong": strong, "increase": increase}
    terms = {"weak": weak, "decrease": decrease, "increase": increase}
    return terms if scheme == "v1" else {name: _share(term) for name, term in terms.items()}


def brownboost(history: Entropies, alpha: float, beta: float, gamma: float) -> Entropies:
    """Unnormalised weights of the published code's second form, after BrownBoost.

    Samples that stay difficult, or stay easy, for more than ``PATIENCE`` rounds are given up.
    Difficulty is that of the last round of the history [rounds, samples], the trend is since the
    first one, and ``gamma`` belongs to the penalty on samples that stay difficult.

    Raises:
        UserError: There are fewer rounds, or the last one tells no samples apart.
    """
    if len(history) < BROWNBOOST_ROUNDS:
        raise UserError(
            f"data.selection.weights: brownboost follows samples over {BROWNBOOST_ROUNDS} rounds "
            f"or more, but there are entropies of {len(history)}; give data.selection.entropies "
            "with entropy_0, entropy_1, entropy_2, or use normalised"
        )
    first, last = history[0], history[-1]
    easy, hard = np.quantile(last, [EASY_QUANTILE, HARD_QUANTILE])
    if easy == hard:
        raise UserError(
            f"data.selection.weights: brownboost cannot tell difficult samples from easy ones, "
            f"the middle of the last round's entropies is {easy} throughout; use uniform"
        )
    difficulty = np.clip((last - easy) / (hard - easy), 0, 1) + LEAST_DIFFICULTY
    decrease = first - last
    spread = decrease.std()
    trend = np.clip(1 + 0.5 * decrease / spread, *TREND_RANGE) if spread > 0 else np.ones_like(last)
    penalties = _penalty(history > hard) ** gamma * _penalty(history < easy)
    return difficulty**alpha * trend**beta * penalties


def _penalty(holds: NDArray[np.bool_]) -> Entropies:
    """What remains of a weight when something holds in more rounds than patience allows."""
    return np.exp(-PENALTY_RATE * np.maximum(0, holds.sum(axis=0) - PATIENCE))


def sampling_weights(
    scheme: Scheme,
    history: Entropies,
    alpha: float = 0.1,
    beta: float = 0.8,
    gamma: float = 0.1,
    idx: NDArray[np.int64] | None = None,
) -> tuple[Entropies, dict[str, float]]:
    """Probability of drawing each sample by one of the forms above.

    The history [rounds, samples] holds mean token entropies in nats; two rounds are enough for all
    forms but brownboost, and uniform looks at none. Messages call samples by ``idx`` [samples], by
    default their positions.

    Returns:
        [samples] float64 that sums to 1; and the share of it that each term of a sum gives.

    Raises:
        UserError: An entropy is negative or not a number (the sample is named), there are too few
            rounds, or every weight is zero.
    """
    samples = history.shape[1]
    if scheme == "uniform":
        return np.full(samples, 1 / samples), {}
    _check(history, np.arange(samples) if idx is None else idx)
    if scheme == "brownboost":
        terms = {"product": brownboost(history, alpha, beta, gamma)}
    else:
        if len(history) < 2:
            raise UserError(
                f"data.selection.weights: {scheme} compares two rounds, but there are entropies "
                "of one; give both entropy_0 and entropy_1, or use uniform"
            )
        terms = _terms(scheme, history[-2], history[-1])
        for name, factor in zip(terms, (alpha, beta, gamma), strict=True):
            terms[name] = factor * terms[name]
    weights = sum(terms.values(), np.zeros(samples))
    total = weights.sum()
    if total <= 0:
        raise UserError(
            f"data.selection.weights: {scheme} gives every sample weight 0; use uniform"
        )
    return weights / total, {name: float(term.sum() / total) for name, term in terms.items()}


def _check(history: Entropies, idx: NDArray[np.int64]) -> None:
    for number, entropy in enumerate(history):
        bad = np.flatnonzero(~(entropy >= 0) | np.isinf(entropy))
        if len(bad):
            raise UserError(
                f"data.selection.weights: entropy_{number} of sample {idx[bad[0]]} is "
                f"{entropy[bad[0]]} ({len(bad)} such samples); entropies are finite and not "
                "negative, score again"
            )


def effective_sample_size(probabilities: Entropies) -> float:
    """(Σp)² / Σp²: how many equally likely samples the distribution is worth."""
    return float(probabilities.sum() ** 2 / np.square(probabilities).sum())
