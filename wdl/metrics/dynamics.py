"""Means and histograms of the logit dynamics, over micro-batches and ranks.

N completion tokens, of S samples one after the other; V vocabulary. A curve is named by its
quantity and whose it is: ``margin/strong``.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from wdl.losses.logit_statistics import LogitDynamics, LogitStatistics

SATURATED = 0.99
"""A token is saturated where its probability is above this."""

BRANCHES = ("weak", "strong", "mixed")
LOSSES = {"weak": "val/weak_loss", "strong": "val/strong_loss", "mixed": "val/loss"}
"""Names of the validation losses."""
DYNAMICS = "val/dynamics/"
"""What validation logs of the logits begins with."""

_CHEAP = ("target", "non_target_mean", "margin")
_FULL = (
    *("std", "centred_norm", "max", "min"),
    *("p_max", "p_target", "saturation", "residual_norm", "entropy"),
)
_JOINT = {"amplification": ("all", "saturated"), "kl": ("mixed_strong",)}
_AGAINST_WEAK = {
    "agreement": ("weak_strong",),
    "hard_negatives": ("share", "mass"),
    "entropy_change": ("weak_to_strong",),
}

_POSITIVE = torch.logspace(-6, 6, 241, dtype=torch.float64)
EDGES = torch.cat((-_POSITIVE.flip(0), torch.zeros(1, dtype=torch.float64), _POSITIVE))
"""Upper edges of the histogram bins; a last bin is open."""

Weighted = tuple[Tensor, Tensor | None]
"""Values and their weights in the mean, equal if None."""


def curves(full: bool, weak: bool) -> dict[str, tuple[str, ...]]:
    """Quantities, and the curves of each, at the full level and with a weak branch or not."""
    branches = BRANCHES if weak else BRANCHES[1:]
    found = dict.fromkeys(_CHEAP + _FULL if full else _CHEAP, branches)
    return found | (_JOINT if full else {}) | (_AGAINST_WEAK if full and weak else {})


class DynamicsSummary(NamedTuple):
    """What was seen, by name of the curve.

    Attributes:
        means: Scalars; NaN where nothing was seen.
        histograms: [len(EDGES) + 1] counts; entry i counts the values in (EDGES[i−1], EDGES[i]].
    """

    means: dict[str, Tensor]
    histograms: dict[str, Tensor]


class MeanDynamics(Metric):
    """Means over tokens, of ``entropy_change`` over samples.

    ``amplification`` weights each token's ratio ‖λ(P_mixed − e_y)‖₂ : ‖P_strong − e_y‖₂ by its
    denominator, which makes it the gradient that the strong branch receives in all, against that
    of plain SFT: a plain mean would show nothing but the few tokens whose SFT gradient is gone.

    Its curves are those of :func:`curves`; with ``histograms`` it counts the values too.
    """

    full_state_update = False
    sums: Tensor
    weights: Tensor
    counts: Tensor

    def __init__(self, full: bool, weak: bool, histograms: bool = False) -> None:
        super().__init__()
        self.full = full
        self.names = [f"{one}/{of}" for one, ofs in curves(full, weak).items() for of in ofs]
        self.histograms = histograms
        zeros = torch.zeros(len(self.names), dtype=torch.float64)
        self.add_state("sums", zeros, dist_reduce_fx="sum")
        self.add_state("weights", zeros.clone(), dist_reduce_fx="sum")
        counts = torch.zeros(len(self.names), len(EDGES) + 1, dtype=torch.int64)
        self.add_state("counts", counts if histograms else counts[:0], dist_reduce_fx="sum")

    def update(self, dynamics: LogitDynamics, tokens: Tensor, vocabulary: int) -> None:
        """Add a micro-batch.

        Args:
            dynamics: Of its N completion tokens; full and with weak as this metric is.
            tokens: [S] int64, completion tokens of each sample; they sum to N.
            vocabulary: V.
        """
        values = weighted_values(dynamics, tokens, vocabulary)
        listed = [values[name] for name in self.names]
        self.sums += torch.stack([_total(*value) for value in listed])
        self.weights += torch.stack([_total(torch.ones_like(v), w) for v, w in listed])
        if self.histograms:
            self.counts += torch.stack([_histogram(*value) for value in listed])

    def compute(self) -> DynamicsSummary:
        """Everything since the last reset, on all ranks."""
        means = dict(zip(self.names, self.sums / self.weights, strict=True))
        counted = self.names if self.histograms else []
        return DynamicsSummary(means, dict(zip(counted, self.counts, strict=True)))


def weighted_values(
    dynamics: LogitDynamics, tokens: Tensor, vocabulary: int
) -> dict[str, Weighted]:
    """Every curve's values [N], of ``entropy_change`` [S]; see :meth:`MeanDynamics.update`."""
    values: dict[str, Weighted] = {}
    for branch in BRANCHES:
        statistics = getattr(dynamics, branch)
        if statistics is not None:
            described = _describe(statistics, vocabulary)
            values |= {f"{name}/{branch}": (value, None) for name, value in described.items()}
    return values | _describe_joint(dynamics, tokens)


def _describe(statistics: LogitStatistics, vocabulary: int) -> dict[str, Tensor]:
    known = {name: value for name, value in statistics._asdict().items() if value is not None}
    known["margin"] = statistics.target - statistics.non_target_mean
    if statistics.std is not None and statistics.p_target is not None:
        known["centred_norm"] = vocabulary**0.5 * statistics.std
        known["saturation"] = (statistics.p_target > SATURATED).float()
    return known


def _describe_joint(dynamics: LogitDynamics, tokens: Tensor) -> dict[str, Weighted]:
    strong, weak, received = dynamics.strong, dynamics.weak, dynamics.gradient_norm
    values: dict[str, Weighted] = {}
    if received is not None:
        assert strong.p_target is not None and strong.residual_norm is not None
        assert dynamics.kl_mixed_strong is not None
        alone = strong.residual_norm
        ratio = received / alone.clamp_min(torch.finfo(alone.dtype).tiny)
        saturated = (strong.p_target > SATURATED).float()
        values["amplification/all"] = ratio, alone
        values["amplification/saturated"] = ratio, alone * saturated
        values["kl/mixed_strong"] = dynamics.kl_mixed_strong, None
    if dynamics.agreement is not None:
        assert dynamics.hard_negative_share is not None
        assert dynamics.hard_negative_mass is not None
        assert weak is not None and weak.entropy is not None and strong.entropy is not None
        values["agreement/weak_strong"] = dynamics.agreement, None
        values["hard_negatives/share"] = dynamics.hard_negative_share, None
        values["hard_negatives/mass"] = dynamics.hard_negative_mass, None
        change = _sample_means(strong.entropy - weak.entropy, tokens)
        values["entropy_change/weak_to_strong"] = change, (tokens > 0).double()
    return values


def _sample_means(values: Tensor, tokens: Tensor) -> Tensor:
    """Mean [S] over the tokens of each sample; 0 where it has none."""
    sample = torch.arange(len(tokens), device=tokens.device)
    sample = sample.repeat_interleave(tokens, output_size=len(values))
    sums = torch.zeros_like(tokens, dtype=torch.float64).index_add_(0, sample, values.double())
    return sums / tokens.clamp_min(1)


def _total(values: Tensor, weights: Tensor | None) -> Tensor:
    values = values.double()
    return values.sum() if weights is None else values @ weights.double()


def _histogram(values: Tensor, weights: Tensor | None) -> Tensor:
    """Counts [len(EDGES) + 1] of the values that have a weight."""
    seen = values.double() if weights is None else values.double()[weights > 0]
    return torch.bincount(torch.bucketize(seen, EDGES.to(seen.device)), minlength=len(EDGES) + 1)
