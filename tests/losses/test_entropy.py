"""Token entropy against a float64 reference, in every dtype and for every degree of certainty."""

import pytest
import torch

from wdl.losses import entropy as scoring
from wdl.losses.entropy import token_entropy


def reference(logits: torch.Tensor) -> torch.Tensor:
    p = logits.double().softmax(-1)
    return -torch.xlogy(p, p).sum(-1)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "LOGIT_BYTES", 4 * 50 * 70)  # seventy tokens of the vocabulary
    monkeypatch.setattr(scoring, "BLOCK_BYTES", 4 * 70 * 3)  # three rows
    monkeypatch.setattr(scoring, "TILE_BYTES", 4 * 16 * 40)  # forty


@pytest.mark.parametrize("scale", [0.01, 1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_token_entropy(scale: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(50, 16, dtype=dtype) * scale, torch.randn(500, 16, dtype=dtype)
    expected = reference(hidden.double() @ head.double().T)
    torch.testing.assert_close(token_entropy(hidden, head).double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("scale", [0.01, 1, 3])
def test_token_entropy_of_bfloat16_operands(scale: float) -> None:
    torch.manual_seed(0)
    hidden = (torch.randn(50, 16) * scale).bfloat16()
    head = torch.randn(500, 16).bfloat16()
    expected = reference(hidden.double() @ head.double().T)
    torch.testing.assert_close(token_entropy(hidden, head).double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("target", [0, 250, 499])
@pytest.mark.parametrize("margin", [5.0, 10.0, 14.0, 30.0, 200.0])
def test_small_entropies_keep_their_digits(margin: float, target: int) -> None:
    head = torch.zeros(500, 1)
    head[target] = margin
    (entropy,) = token_entropy(torch.ones(1, 1), head).double()
    (expected,) = reference(torch.ones(1, 1) @ head.T)
    assert entropy.item() == pytest.approx(expected.item(), rel=1e-5)


def test_equal_logits_have_the_entropy_of_the_vocabulary() -> None:
    assert token_entropy(torch.zeros(1, 4), torch.randn(500, 4)).item() == pytest.approx(6.2146081)


def test_token_entropy_of_nothing() -> None:
    assert token_entropy(torch.empty(0, 4), torch.randn(9, 4)).shape == (0,)
