"""Softmax of one chunk of logits, and what the logits look like, one value per token.

Everything works in place on the chunk that the loss has in hand. R rows (tokens), V vocabulary;
[R, 1] columns are kept so that they broadcast.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

DynamicsLevel = Literal["off", "cheap", "full"]

BLOCKS_PER_CHUNK = 4
"""Full statistics need two more buffers; working on parts of a chunk keeps those small."""


class LogitStatistics(NamedTuple):
    """Logits z of one branch, or their mixture: [N] float32 each. P is softmax(z), in nats.

    Attributes:
        target: z[y].
        non_target_mean: Mean of z[k] over k ≠ y.
        std: Population standard deviation of z over the vocabulary; full level only, as are:
        max: Largest logit.
        min: Smallest logit.
        p_max: Largest probability.
        p_target: P[y].
        entropy: −Σ P ln P.
    """

    target: Tensor
    non_target_mean: Tensor
    std: Tensor | None = None
    max: Tensor | None = None
    min: Tensor | None = None
    p_max: Tensor | None = None
    p_target: Tensor | None = None
    entropy: Tensor | None = None


class LogitDynamics(NamedTuple):
    """Statistics of the tokens that count, in their order: [N] float32 each.

    Attributes:
        strong: The strong branch.
        mixed: The mixture (λ·z_strong without a weak branch).
        weak: The weak branch, or the combination of several; None without one.
        gradient_norm: ‖λ·(P_mixed − e_y)‖₂, what the strong branch receives; full level only, as
            are all that follow.
        sft_gradient_norm: ‖P_strong − e_y‖₂, what it would receive from plain SFT.
        kl_mixed_strong: KL(P_mixed ‖ P_strong).
        agreement: 1 where weak and strong have the same argmax, else 0; None without weak.
        hard_negative_share: Share of the vocabulary that is a hard negative, that is, has
            z_weak[y] − z_weak[k] < z_strong[y] − z_strong[k]; None without weak.
        hard_negative_mass: P_mixed of the hard negatives together; None without weak.
    """

    strong: LogitStatistics
    mixed: LogitStatistics
    weak: LogitStatistics | None = None
    gradient_norm: Tensor | None = None
    sft_gradient_norm: Tensor | None = None
    kl_mixed_strong: Tensor | None = None
    agreement: Tensor | None = None
    hard_negative_share: Tensor | None = None
    hard_negative_mass: Tensor | None = None


class Softmax(NamedTuple):
    """What `exponentials_` knows of a softmax: [R, 1] each.

    The target is kept apart from the rest, so that 1 − P[y] of a confident token is a sum of
    small numbers instead of a difference of two that are nearly equal.
    """

    maximum: Tensor
    shifted_target: Tensor
    target: Tensor
    rest: Tensor
    log_total: Tensor

    @property
    def total(self) -> Tensor:
        """Normaliser, relative to the exponential of the maximum."""
        return self.target + self.rest

    @property
    def loss(self) -> Tensor:
        """−ln P[y]."""
        return self.log_total - self.shifted_target


def exponentials_(logits: Tensor, labels: Tensor, out: Tensor) -> Softmax:
    """Set `logits` to z − max z and `out` to its exponential, 0 at the target.

    Args:
        logits: [R, V].
        labels: [R, 1].
        out: [R, V]; may be `logits`, which then ends as the exponential.
    """
    maximum = logits.amax(1, keepdim=True)
    shifted_target = logits.sub_(maximum).gather(1, labels)
    torch.exp(logits, out=out)
    target = out.gather(1, labels)
    rest = out.scatter_(1, labels, 0).sum(1, keepdim=True)
    return Softmax(maximum, shifted_target, target, rest, torch.log1p(rest + (target - 1)))


def residual_(exponentials: Tensor, labels: Tensor, softmax: Softmax) -> Tensor:
    """Turn the result of `exponentials_` into P − e_y, in place."""
    residual = exponentials.div_(softmax.total)
    return residual.scatter_(1, labels, -softmax.rest / softmax.total)


def cheap_dynamics(strong: Tensor, weak: Tensor | None, lam: float) -> LogitDynamics:
    """Dynamics from the target logit and the mean non-target logit alone, which mix linearly.

    Args:
        strong: [2, N], both logits of the strong branch.
        weak: [2, N], of the weak branch, or None.
        lam: λ.
    """
    mixed = lam * strong if weak is None else torch.lerp(weak, strong, lam)
    pairs = ((None if pair is None else pair.float()) for pair in (strong, mixed, weak))
    return LogitDynamics(*(None if pair is None else LogitStatistics(*pair) for pair in pairs))


def full_dynamics_(
    strong: Tensor, weak: Tensor | None, labels: Tensor, lam: float, cheap: LogitDynamics
) -> tuple[Tensor, LogitDynamics]:
    """Loss, residual and all statistics of a chunk from the logits of each branch.

    Args:
        strong: [C, V]; ends as P_mixed − e_y.
        weak: [C, V] or None; destroyed.
        labels: [C, 1].
        lam: λ.
        cheap: What is known already of these C tokens.

    Returns:
        −ln P_mixed[y], [C], and the statistics.
    """
