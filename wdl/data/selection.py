"""Which samples a run trains on, and what that choice amounts to."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wdl.config.paths import InputPath
from wdl.data.draw import Draw, draw_samples
from wdl.data.score_table import Missing
from wdl.data.weights import Scheme, effective_sample_size
from wdl.errors import UserError


@dataclass(frozen=True)
class Selection:
    """Which samples a run trains on (phase 2, "selection").

    Args:
        weights: How entropies become sampling weights. Without a weak branch, or a file of
            entropies, only uniform.
        alpha: Weight of the first term of the scheme.
        beta: Weight of the second term.
        gamma: Weight of the third term.
        draw: What becomes of samples drawn more than once.
        multiplier: Draws per sample of the training data.
        tokens: Draw until an epoch holds this many tokens, instead of by multiplier. For runs
            that are compared at equal compute.
        entropies: File of entropies by idx (entropy_0, entropy_1, ..., the last two those of weak
            and strong), instead of scoring the branches.
        missing_entropies: Whether samples that the file lacks are an error or never drawn.
    """

    weights: Scheme = "normalised"
    alpha: float = 0.1
    beta: float = 0.8
    gamma: float = 0.1
    draw: Draw = "with_replacement"
    multiplier: float = 1.0
    tokens: int | None = None
    entropies: InputPath | None = None
    missing_entropies: Missing = "error"

    def __post_init__(self) -> None:
        if min(self.alpha, self.beta, self.gamma) < 0:
            raise UserError("data.selection: alpha, beta and gamma must not be negative")
        if self.multiplier <= 0:
            raise UserError(f"data.selection.multiplier: {self.multiplier} must be above 0")
        if self.tokens is not None and self.draw == "deduplicated":
            raise UserError(
                "data.selection.tokens: a draw without duplicates cannot reach any number of "
                "tokens; use another data.selection.draw, or multiplier"
            )
        if self.weights == "brownboost" and self.entropies is None:
            raise UserError(
                "data.selection.weights: brownboost follows samples over three rounds or more, "
                "two branches are two; give data.selection.entropies with entropy_0, entropy_1, "
                "entropy_2, or use normalised"
            )

    def draw_epoch(
        self, probabilities: NDArray[np.float64], lengths: NDArray[np.int64], seed: int
    ) -> NDArray[np.int64]:
        """Positions [draws] of samples drawn by ``probabilities``; ``lengths`` are in tokens."""
        count = max(1, round(self.multiplier * len(probabilities)))
        if self.tokens is None:
            return draw_samples(probabilities, count, self.draw, seed)
        while True:
            drawn = draw_samples(probabilities, count, self.draw, seed)
            total = np.cumsum(lengths[drawn])
            if total[-1] >= self.tokens:
                return drawn[: int(np.searchsorted(total, self.tokens)) + 1]
            count *= 2


@dataclass(frozen=True)
class Summary:
    """What an epoch holds, for the screen, the logs and the results."""

    samples: int
    draws: int
    unique: int
    unique_share: float
    duplicates: int
    effective_sample_size: float
    tokens: int
    steps: int

    @classmethod
    def of(
        cls,
        probabilities: NDArray[np.float64],
        drawn: NDArray[np.int64],
        lengths: NDArray[np.int64],
        steps: int,
    ) -> "Summary":
        """Of the positions ``drawn``, from samples of so many tokens in so many optimizer steps."""
        unique = len(np.unique(drawn))
        return cls(
            samples=len(probabilities),
            draws=len(drawn),
            unique=unique,
            unique_share=unique / len(probabilities),
            duplicates=len(drawn) - unique,
            effective_sample_size=effective_sample_size(probabilities),
            tokens=int(lengths[drawn].sum()),
            steps=steps,
        )

    def __str__(self) -> str:
        return (
            f"{self.draws} of {self.samples} training samples ({self.unique} different, effective "
            f"sample size {self.effective_sample_size:.0f}), {self.tokens} tokens in {self.steps} "
            "steps"
        )
