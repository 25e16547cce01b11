"""Logit dynamics against their definitions, written out in float64 on whole logits."""

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wdl.constants import IGNORE_INDEX
from wdl.losses.logit_statistics import LogitStatistics
from wdl.losses.mixed_loss import MixedLoss, mixed_linear_cross_entropy

Level = Literal["cheap", "full"]
LAM, VOCABULARY = 0.42, 53
LABELS = torch.tensor([7, IGNORE_INDEX, 0, 52, 7, 11, IGNORE_INDEX, 30, 4, 5, 6, 7, 8, 9, 10])
COUNTED = LABELS[LABELS != IGNORE_INDEX]
ROWS = torch.arange(len(COUNTED))


def make_tensors(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states and heads of strong and weak; strong is sure of every other token."""
    generator = torch.Generator().manual_seed(3)
    hs, hw = torch.randn(2, len(LABELS), 8, generator=generator)
    ws, ww = torch.randn(2, VOCABULARY, 8, generator=generator) + 0.5
    hs[::2] += 2 * ws[LABELS.clamp_min(0)][::2]
    hw[::4] += ww[LABELS.clamp_min(0)][::4]
    return hs.to(dtype), ws.to(dtype), hw.to(dtype), ww.to(dtype)


def compute(weak: bool, level: Level, dtype: torch.dtype = torch.float64) -> MixedLoss:
    hs, ws, hw, ww = (tensor.requires_grad_() for tensor in make_tensors(dtype))
    others = hw if weak else None, ww if weak else None
    size = VOCABULARY * 8 * 5  # several chunks, blocks of one or two tokens
    return mixed_linear_cross_entropy(
        hs, ws, *others, LABELS, LAM, dynamics=level, chunk_bytes=size
    )


def logits(weak: bool) -> dict[str, Tensor]:
    """Logits of the counted tokens by name, in float64."""
    hs, ws, hw, ww = make_tensors()
    kept = LABELS != IGNORE_INDEX
    strong, other = hs[kept] @ ws.T, hw[kept] @ ww.T
    if not weak:
        return {"strong": strong, "mixed": LAM * strong}
    return {"strong": strong, "weak": other, "mixed": LAM * strong + (1 - LAM) * other}


def probabilities(z: Tensor) -> Tensor:
    return torch.softmax(z, 1)


def defined(z: Tensor) -> LogitStatistics:
    """Each statistic of one branch by its definition."""
    p, one_hot = probabilities(z), F.one_hot(COUNTED, VOCABULARY)
    return LogitStatistics(
        target=z[ROWS, COUNTED],
        non_target_mean=torch.stack(
            [torch.cat((row[:y], row[y + 1 :])).mean() for row, y in zip(z, COUNTED, strict=True)]
        ),
        std=z.std(1, unbiased=False),
        max=z.max(1).values,
        min=z.min(1).values,
        p_max=p.max(1).values,
        p_target=p[ROWS, COUNTED],
        residual_norm=(p - one_hot).norm(dim=1),
        entropy=torch.distributions.Categorical(p).entropy(),
    )


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
@pytest.mark.parametrize("weak", [True, False])
def test_full_statistics_of_each_branch(weak: bool, dtype: torch.dtype, rtol: float) -> None:
    dynamics = compute(weak, "full", dtype).dynamics
    for name, z in logits(weak).items():
        measured: LogitStatistics = getattr(dynamics, name)
        assert {value.dtype for value in measured if value is not None} == {torch.float32}
        assert not any(value.requires_grad for value in measured if value is not None)
        torch.testing.assert_close(measured, defined(z), rtol=rtol, atol=1e-6, check_dtype=False)


@pytest.mark.parametrize("weak", [True, False])
def test_cheap_statistics_are_those_of_the_full_level(weak: bool) -> None:
    cheap, full = compute(weak, "cheap"), compute(weak, "full")
    torch.testing.assert_close(cheap.loss, full.loss)
    for name in logits(weak):
        few: LogitStatistics = getattr(cheap.dynamics, name)
        torch.testing.assert_close(few[:2], getattr(full.dynamics, name)[:2])
        assert few[2:] == (None,) * 7
    assert cheap.dynamics[3:] == (None,) * 5


def test_statistics_of_the_ensemble() -> None:
    dynamics = compute(True, "full").dynamics
    z = logits(True)
    p = {name: probabilities(each) for name, each in z.items()}
    residual = p["mixed"] - F.one_hot(COUNTED, VOCABULARY)
    margins = {name: each[ROWS, COUNTED][:, None] - each for name, each in z.items()}
    hard = margins["weak"] < margins["strong"]
    hard[ROWS, COUNTED] = False
    divergence = (p["mixed"] * (p["mixed"] / p["strong"]).log()).sum(1)
    agreement = z["weak"].argmax(1) == z["strong"].argmax(1)
    assert 0 < agreement.sum() < len(agreement)
    for measured, expected in (
        (dynamics.gradient_norm, LAM * residual.norm(dim=1)),
        (dynamics.kl_mixed_strong, divergence),
        (dynamics.agreement, agreement.double()),
        (dynamics.hard_negative_share, hard.double().mean(1)),
        (dynamics.hard_negative_mass, (hard * p["mixed"]).sum(1)),
    ):
        assert measured is not None
        torch.testing.assert_close(measured.double(), expected, rtol=1e-6, atol=1e-6)


def test_without_weak_there_is_nothing_to_compare() -> None:
    dynamics = compute(False, "full").dynamics
    assert dynamics.weak is None
    assert dynamics.agreement is None
    assert dynamics.hard_negative_share is None
    assert dynamics.hard_negative_mass is None
    assert dynamics.kl_mixed_strong is not None
    assert (dynamics.kl_mixed_strong > 0).all()


def test_margins_mix_linearly() -> None:
    dynamics = compute(True, "cheap").dynamics
    assert dynamics.weak is not None
    strong, weak, mixed = (
        branch.target - branch.non_target_mean
        for branch in (dynamics.strong, dynamics.weak, dynamics.mixed)
    )
    torch.testing.assert_close(mixed, LAM * strong + (1 - LAM) * weak)


@pytest.mark.parametrize("level", ["cheap", "full"])
def test_without_tokens_statistics_are_empty(level: Level) -> None:
    tensors = make_tensors()
    labels = torch.full_like(LABELS, IGNORE_INDEX)
    dynamics = mixed_linear_cross_entropy(*tensors, labels, LAM, dynamics=level).dynamics
    assert dynamics.strong.target.shape == (0,)
    assert (dynamics.agreement is None) == (level == "cheap")
