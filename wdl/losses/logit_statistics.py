"""Softmax of one chunk of logits, and what the logits look like, one value per token.

Everything works in place on the chunk that the loss has in hand. R rows (tokens), V vocabulary;
columns keep their second dimension, [R, 1], so that they broadcast.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

DynamicsLevel = Literal["off", "cheap", "full"]


class LogitStatistics(NamedTuple):
    """Logits z of one branch, or of the mixture: [N] float32 each. P is softmax(z), y the label.

    Attributes:
        target: z[y].
        non_target_mean: Mean of z[k] over k ≠ y.
        std: Population standard deviation of z over the vocabulary; full level only, as are:
        max: Largest logit.
        min: Smallest logit.
        p_max: Largest probability.
        p_target: P[y].
        residual_norm: ‖P − e_y‖₂, the norm of the gradient that this softmax alone would give.
        entropy: −Σ P ln P, in nats.
    """

    target: Tensor
    non_target_mean: Tensor
    std: Tensor | None = None
    max: Tensor | None = None
    min: Tensor | None = None
    p_max: Tensor | None = None
    p_target: Tensor | None = None
    residual_norm: Tensor | None = None
    entropy: Tensor | None = None


class LogitDynamics(NamedTuple):
    """Statistics of the tokens that count, in their order: [N] float32 each, without a graph.

    Attributes:
        strong: The strong branch.
        mixed: The mixture (λ·z_strong without a weak branch).
        weak: The weak branch; None without one.
        gradient_norm: λ·‖P_mixed − e_y‖₂, what the strong branch receives where plain SFT would
            give it `strong.residual_norm`; full level only, as are:
        kl_mixed_strong: KL(P_mixed ‖ P_strong), in nats.
        agreement: 1 where weak and strong have the same argmax, else 0; None without weak.
        hard_negative_share: Share of the vocabulary that is a hard negative, that is, has
            z_weak[y] − z_weak[k] < z_strong[y] − z_strong[k]; None without weak.
        hard_negative_mass: P_mixed of the hard negatives together; None without weak.
    """

    strong: LogitStatistics
    mixed: LogitStatistics
    weak: LogitStatistics | None = None
    gradient_norm: Tensor | None = None
    kl_mixed_strong: Tensor | None = None
    agreement: Tensor | None = None
    hard_negative_share: Tensor | None = None
    hard_negative_mass: Tensor | None = None


class Softmax(NamedTuple):
    """A softmax, not normalised: the first two are [R, V], the others [R, 1].

    The target is kept apart from the rest, so that 1 − P[y] of a confident token is a sum of
    small numbers instead of the difference of two that are nearly equal.

    Attributes:
        shifted: z − max z.
        exponentials: Their exponentials, 0 at the target.
        labels: y.
        maximum: max z.
        shifted_target: z[y] − max z.
        target: Its exponential.
        rest: Sum of the other exponentials.
    """

    shifted: Tensor
    exponentials: Tensor
    labels: Tensor
    maximum: Tensor
    shifted_target: Tensor
    target: Tensor
    rest: Tensor

    @property
    def total(self) -> Tensor:
        """Sum of all exponentials."""
        return self.target + self.rest

    @property
    def log_total(self) -> Tensor:
        """Its logarithm, exact also where the target is nearly all of it."""
        return torch.log1p(self.rest + (self.target - 1))

    def nll(self) -> Tensor:
        """−ln P[y], [R]."""
        return (self.log_total - self.shifted_target).squeeze(1)

    def cross_entropy(self, other: "Softmax", scratch: Tensor) -> Tensor:
        """−Σ P ln Q for the distribution Q of `other`, [R, 1]; overwrites `scratch` [R, V]."""
        products = torch.mul(self.exponentials, other.shifted, out=scratch)
        expected = products.sum(1, keepdim=True) + self.target * other.shifted_target
        return other.log_total - expected / self.total

    def residual_norm(self) -> Tensor:
        """‖P − e_y‖₂, [R, 1]."""
        norm = torch.linalg.vector_norm(self.exponentials, dim=1, keepdim=True)
        return torch.hypot(norm, self.rest) / self.total

    def recompute_(self) -> None:
        """Take the exponentials again, in whose place the logits z stand once more."""
        self.exponentials.sub_(self.maximum).exp_()

    def residual_(self, weights: Tensor | float = 1) -> Tensor:
        """weights·(P − e_y), [R, V], written over the exponentials.

        Args:
            weights: One factor, or one per token, [R, 1].
        """
        self.exponentials.mul_(weights / self.total)
        return self.exponentials.scatter_(1, self.labels, -self.rest / self.total * weights)


def softmax_(logits: Tensor, labels: Tensor, out: Tensor) -> Softmax:
    """Softmax of logits, which are shifted in place.

    Args:
        logits: [R, V].
        labels: [R, 1].
        out: [R, V], where the exponentials go; may be `logits`, whose shifted values are then lost.
    """
    maximum = logits.amax(1, keepdim=True)
    shifted_target = logits.sub_(maximum).gather(1, labels)
    torch.exp(logits, out=out)
    target = out.gather(1, labels)
    rest = out.scatter_(1, labels, 0).sum(1, keepdim=True)
    return Softmax(logits, out, labels, maximum, shifted_target, target, rest)


def cheap_dynamics(strong: Tensor, weak: Tensor | None = None, *, lam: float) -> LogitDynamics:
    """Dynamics from the target and the mean non-target logit alone, which mix linearly.

    Args:
        strong: [2, N], both logits of the strong branch.
        weak: [2, N], of the weak branch, if any.
        lam: λ.
    """
    mixed = lam * strong if weak is None else torch.lerp(weak, strong, lam)
    return LogitDynamics(
        strong=LogitStatistics(*strong.float()),
        mixed=LogitStatistics(*mixed.float()),
        weak=None if weak is None else LogitStatistics(*weak.float()),
    )


def full_dynamics_(
    strong: Tensor, weak: Tensor | None = None, *, labels: Tensor, lam: float
) -> tuple[Tensor, LogitDynamics]:
    """Loss, residual and all statistics of some tokens, from the logits of each branch.

    Args:
        strong: [R, V]; ends as P_mixed − e_y.
        weak: [R, V], if any; destroyed.
        labels: [R, 1].
        lam: λ.

    Returns:
        −ln P_mixed[y], [R], and the statistics.
    """
    scratch = lam * strong if weak is None else torch.lerp(weak, strong, lam)
    mixed, of_mixed = _describe_(scratch, labels, torch.empty_like(scratch), scratch)
    of_weak: dict[str, Tensor] = {}
    against_weak: dict[str, Tensor] = {}
    if weak is not None:
        against_weak = _compare(strong, weak, mixed, scratch)
        _, of_weak = _describe_(weak, labels, scratch, weak)
    alone, of_strong = _describe_(strong, labels, scratch, scratch)
    divergence = _column(mixed.cross_entropy(alone, scratch)) - of_mixed["entropy"]
    strong.copy_(mixed.residual_())
    return mixed.nll(), LogitDynamics(
        strong=LogitStatistics(**of_strong),
        mixed=LogitStatistics(**of_mixed),
        weak=LogitStatistics(**of_weak) if of_weak else None,
        gradient_norm=lam * of_mixed["residual_norm"],
        kl_mixed_strong=divergence.clamp_min(0),
        **against_weak,
    )


def concatenate(parts: Sequence[LogitDynamics]) -> LogitDynamics:
    """Dynamics of several chunks of tokens, one after the other."""
    return LogitDynamics(*map(_join, zip(*parts, strict=True)))


def _join(values: tuple[Any, ...]) -> Any:
    if values[0] is None:
        return None
    if isinstance(values[0], LogitStatistics):
        return LogitStatistics(*map(_join, zip(*values, strict=True)))
    return torch.cat(values)


def _column(values: Tensor) -> Tensor:
    return values.squeeze(1).float()


def _describe_(
    logits: Tensor, labels: Tensor, exponentials: Tensor, scratch: Tensor
) -> tuple[Softmax, dict[str, Tensor]]:
    """Softmax and statistics of `logits`; `scratch` [R, V] may be the one or the other buffer."""
    size = logits.shape[1]
    target, mean = logits.gather(1, labels), logits.mean(1, keepdim=True)
    mean_square = torch.linalg.vector_norm(logits, dim=1, keepdim=True).square() / size
    minimum = logits.amin(1, keepdim=True)
    softmax = softmax_(logits, labels, out=exponentials)
    statistics = {
        "target": target,
        "non_target_mean": (size * mean - target) / (size - 1),
        "std": (mean_square - mean.square()).clamp_min(0).sqrt(),
        "max": softmax.maximum,
        "min": minimum,
        "p_max": softmax.total.reciprocal(),
        "p_target": softmax.target / softmax.total,
        "residual_norm": softmax.residual_norm(),
        "entropy": softmax.cross_entropy(softmax, scratch),
    }
    return softmax, {name: _column(values) for name, values in statistics.items()}


def _compare(strong: Tensor, weak: Tensor, mixed: Softmax, scratch: Tensor) -> dict[str, Tensor]:
    """Statistics of both branches together, from their logits [R, V]."""
    best = strong.gather(1, weak.argmax(1, keepdim=True)) == strong.amax(1, keepdim=True)
    lead = torch.sub(strong, weak, out=scratch)
    hard = lead.lt_(lead.gather(1, mixed.labels))
    share = hard.mean(1, keepdim=True)
    mass = hard.mul_(mixed.exponentials).sum(1, keepdim=True) / mixed.total
    return {
        "agreement": _column(best),
        "hard_negative_share": _column(share),
        "hard_negative_mass": _column(mass),
    }
