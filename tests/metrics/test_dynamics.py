"""Logit dynamics, accumulated and merged over ranks, against their definitions in float64."""

import math

import pytest
import torch
from dynamics_reference import reference
from torch import Tensor

from wdl.constants import IGNORE_INDEX
from wdl.losses.logit_statistics import LogitDynamics
from wdl.losses.mixed_loss import mixed_linear_cross_entropy
from wdl.metrics.dynamics import EDGES, MeanDynamics, curves

VOCABULARY, LAM = 50, 0.4
TOKENS = [3, 5, 1, 4, 2]
Logits = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def logits() -> Logits:
    """Of strong and weak, and labels, some of them saturated."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(VOCABULARY, (sum(TOKENS),), generator=generator)
    strong, weak = 3 * torch.randn(2, sum(TOKENS), VOCABULARY, generator=generator)
    strong[::3, :] += 20 * torch.nn.functional.one_hot(labels[::3], VOCABULARY)
    return strong, weak, labels


def dynamics(strong: Tensor, weak: Tensor | None, labels: Tensor, level: str) -> LogitDynamics:
    """By the loss, with logits as hidden states of an identity head."""
    head = torch.eye(VOCABULARY)
    head_weak = None if weak is None else head
    assert level in ("cheap", "full")
    return mixed_linear_cross_entropy(
        *(strong, head, weak, head_weak, labels, LAM),
        dynamics=level,  # type: ignore[call-overload]
    ).dynamics


@pytest.mark.parametrize("level", ["cheap", "full"])
def test_ranks_and_micro_batches_add_up(logits: Logits, level: str) -> None:
    ranks = [MeanDynamics(level == "full", weak=True) for _ in range(2)]
    parts = zip(*(tensor.split(TOKENS) for tensor in logits), strict=True)
    for i, (strong, weak, labels) in enumerate(parts):
        # a sample of none of whose tokens counts, and one that does
        found = dynamics(strong, weak, labels, level)
        ranks[i % 2].update(found, torch.tensor([0, TOKENS[i]]), VOCABULARY)
    ranks[0].merge_state(ranks[1])
    means = ranks[0].compute().means
    expected = reference(*logits, LAM, TOKENS)
    if level == "cheap":
        expected = {k: v for k, v in expected.items() if k.split("/")[0] in curves(False, True)}
        assert len(expected) == 9
    assert {k: v.item() for k, v in means.items()} == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_saturated_are_amplified(logits: Logits) -> None:
    metric = MeanDynamics(True, weak=True)
    metric.update(dynamics(*logits, "full"), torch.tensor(TOKENS), VOCABULARY)
    means = metric.compute().means
    assert means["amplification/saturated"] > 100 > 1 > means["amplification/all"]


def test_without_a_weak_branch(logits: Logits) -> None:
    strong, _, labels = logits
    metric = MeanDynamics(True, weak=False)
    metric.update(dynamics(strong, None, labels, "full"), torch.tensor(TOKENS), VOCABULARY)
    means = metric.compute().means
    z = LAM * strong.double()
    assert means["max/mixed"].item() == pytest.approx(z.amax(1).mean().item(), rel=1e-5)
    assert not any("weak" in name or "negatives" in name for name in means)


def test_histograms_hold_every_value_in_its_bin(logits: Logits) -> None:
    metric = MeanDynamics(True, weak=True, histograms=True)
    for _ in range(2):
        metric.update(dynamics(*logits, "full"), torch.tensor(TOKENS), VOCABULARY)
    histograms = metric.compute().histograms
    largest = logits[0].amax(1).tolist()
    for i in histograms["max/strong"].nonzero().flatten().tolist():
        inside = [x for x in largest if EDGES[i - 1] < x <= EDGES[i]]
        assert histograms["max/strong"][i] == 2 * len(inside)
    assert histograms["max/strong"].sum() == 2 * len(largest)
    assert histograms["entropy_change/weak_to_strong"].sum() == 2 * len(TOKENS)
    saturated = (torch.softmax(logits[0], 1).gather(1, logits[2][:, None]) > 0.99).sum()
    assert histograms["amplification/saturated"].sum() == 2 * saturated


def test_nothing_counted_is_no_number(logits: Logits) -> None:
    strong, weak, labels = logits
    metric = MeanDynamics(True, weak=True, histograms=True)
    ignored = torch.full_like(labels, IGNORE_INDEX)
    metric.update(dynamics(strong, weak, ignored, "full"), torch.tensor([0]), VOCABULARY)
    summary = metric.compute()
    assert all(math.isnan(mean) for mean in summary.means.values())
    assert not any(counts.any() for counts in summary.histograms.values())
