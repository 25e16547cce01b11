"""The mixed loss against float64 autograd of the formula written out, and against its theory."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from wdl.constants import IGNORE_INDEX
from wdl.models import matmul, mixed_linear_cross_entropy

VOCABULARY = 101
THREE_CHUNKS = {"chunk_bytes": VOCABULARY * 4 * 10}


class Pair(NamedTuple):
    """Arguments of the loss, in its order."""

    hidden_strong: Tensor
    head_strong: Tensor
    hidden_weak: Tensor
    head_weak: Tensor
    labels: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self[:4]


def make_pair(
    dtype: torch.dtype = torch.float64, tokens: int = 37, confidence: float = 0.0, seed: int = 0
) -> Pair:
    """Random branches of different hidden sizes, which favour their targets by `confidence`."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, VOCABULARY, (tokens,), generator=generator)
    tensors = []
    for size in (16, 12):
        hidden = torch.randn(tokens, size, generator=generator)
        head = torch.randn(VOCABULARY, size, generator=generator)
        hidden += confidence * F.normalize(head[labels], dim=1)
        tensors += [hidden.to(dtype).requires_grad_(), head.to(dtype).requires_grad_()]
    labels[torch.rand(tokens, generator=generator) < 0.3] = IGNORE_INDEX
    return Pair(*tensors, labels)


def written_out(pair: Pair, lam: float, denominator: float | None = None) -> Tensor:
    """The formula, with all logits."""
    hs, ws, hw, ww, labels = pair
    z = lam * (hs @ ws.T) + (1 - lam) * (hw @ ww.T)
    total = F.cross_entropy(z.float() if z.dtype == torch.bfloat16 else z, labels, reduction="sum")
    return total / (denominator or (labels != IGNORE_INDEX).sum())


def truth(pair: Pair, lam: float) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Loss and gradients in float64."""
    exact = Pair(*(t.detach().double().requires_grad_() for t in pair.tensors), pair.labels)
    loss = written_out(exact, lam)
    return loss.detach(), torch.autograd.grad(loss, exact.tensors)


def distance(measured: Tensor, exact: Tensor) -> float:
    """Relative error in the Euclidean norm, absolute where the truth is 0."""
    norm = exact.double().norm().item()
    return (measured.double() - exact).norm().item() / (norm or 1)


@pytest.fixture(params=["as is", "16-bit products", "widened tiles"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to multiply 16-bit operands on a CPU, whatever this CPU would choose."""
    if request.param != "as is":
        narrow = request.param == "16-bit products"
        monkeypatch.setattr(
            matmul, "product_dtype", lambda t: t.dtype if narrow else matmul.sum_dtype(t.dtype)
        )
        monkeypatch.setattr(matmul, "TILE_BYTES", 4 * 16 * 30)
        monkeypatch.setattr(matmul, "PART_BYTES", 4 * 16 * 40)
    return request.param


@pytest.mark.parametrize("dynamics", ["off", "cheap", "full"])
@pytest.mark.parametrize("lam", [0.0, 0.42, 1.0])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 1e-6), (torch.float16, 2e-3)]
)
def test_equals_autograd_of_the_formula(
    dtype: torch.dtype, tolerance: float, lam: float, dynamics: str
) -> None:
    pair = make_pair(dtype)
    result = mixed_linear_cross_entropy(*pair, lam, dynamics=dynamics, **THREE_CHUNKS)
    loss = result if isinstance(result, Tensor) else result.loss
    gradients = torch.autograd.grad(loss, pair.tensors)
    exact_loss, exact = truth(pair, lam)
    assert distance(loss, exact_loss) < tolerance
    for gradient, tensor, expected in zip(gradients, pair.tensors, exact, strict=True):
        assert gradient.dtype == tensor.dtype
        assert distance(gradient, expected) < tolerance
