"""Products of a chunk of tokens with an output head, at the precision that each device offers.

Operands are used as they are (float32, float64) or in 16 bits; sums that are read again, such as
logits and the gradient of the hidden states, are kept in float32. CUDA multiplies 16-bit operands
into float32 directly. A CPU cannot: it multiplies vocabulary tiles that fit its cache, in bfloat16
where it has the instructions, otherwise in float32 after widening the tile.

Shapes: C tokens of a chunk, H hidden size, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

TILE_BYTES = 16 * 2**20
"""Size of a float32 copy of one vocabulary tile of a 16-bit head, on a CPU."""


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of logits and sums over operands of `dtype`: float64 stays, all else is float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def product_dtype(operand: Tensor) -> torch.dtype:
    """Dtype in which products of tensors like `operand` are fastest without losing precision."""
    if operand.is_cuda or operand.dtype in (torch.float32, torch.float64):
        return operand.dtype
    # without AVX-512, 16-bit products on a CPU are emulated, several times slower than float32
    native = "AVX512" in torch.backends.cpu.get_cpu_capability()
    return operand.dtype if native and operand.dtype == torch.bfloat16 else torch.float32


def add_product_(out: Tensor, a: Tensor, b: Tensor, scale: float, *, accumulate: bool) -> None:
    """Set `out` to scale·a·b, plus `out` itself if `accumulate`.

    Args:
        out: [M, N], of the dtype of `a` or, for 16-bit operands, float32 (or the reverse on a CPU).
        a: [M, K].
        b: [K, N], same dtype as `a`.
        scale: Factor, applied before any rounding to 16 bits where the device allows it.
        accumulate: Whether to add to what `out` holds; otherwise that is not read.
    """
    beta = 1 if accumulate else 0
    if out.dtype == a.dtype:
        torch.addmm(out, a, b, beta=beta, alpha=scale, out=out)
    elif out.is_cuda:
        torch.addmm(out, a, b, out_dtype=out.dtype, beta=beta, alpha=scale, out=out)
    elif accumulate:
        out.add_(a @ b, alpha=scale)
    else:
        torch.mul(a @ b, scale, out=out)


@dataclass
class HeadProduct:
    """One branch's part of the mixed logits: weight·hidden·headᵀ, and its two gradients.

    Args:
        hidden: [N, H] operand.
        head: [V, H] operand, same dtype.
        weight: Share of this branch in the mixed logits.
        grad_hidden: [N, H] buffer for the gradient, float32 or float64, or None if not wanted.
        grad_head: [V, H] buffer for the gradient, or None if not wanted.
    """

    hidden: Tensor
    head: Tensor
    weight: float
    grad_hidden: Tensor | None
    grad_head: Tensor | None

    def tiles(self) -> Iterator[slice]:
        """Ranges of the vocabulary to multiply one after the other."""
        vocabulary, size = self.head.shape
        narrow = self.head.device.type == "cpu" and self.head.element_size() == 2
        step = max(1, TILE_BYTES // (4 * size)) if narrow else vocabulary
        return (slice(i, i + step) for i in range(0, vocabulary, step))

    def add_logits_(self, out: Tensor, rows: slice, weight: float, *, accumulate: bool) -> None:
        """Put weight·hidden·headᵀ of the given tokens into (or on top of) `out` [C, V]."""
        dtype = product_dtype(self.head)
        hidden = self.hidden[rows].to(dtype)
        for tile in self.tiles():
            head = self.head[tile].to(dtype)
            add_product_(out[:, tile], hidden, head.T, weight, accumulate=accumulate)

    def add_gradients(self, residual: Tensor, rows: slice, scale: float) -> None:
        """Take in ∂loss/∂z = scale·residual [C, V] of the given tokens.

        The hidden gradient of these tokens is set; the head's is added to that of the tokens
        before, so the first call must begin at token 0.
        """
        dtype = product_dtype(self.head)
        hidden = self.hidden[rows].to(dtype)
        for tile in self.tiles():
            part = residual[:, tile].to(dtype)
            if self.grad_hidden is not None:
                head, out = self.head[tile].to(dtype), self.grad_hidden[rows]
                add_product_(out, part, head, scale * self.weight, accumulate=tile.start > 0)
            if self.grad_head is not None:
                out = self.grad_head[tile]
                add_product_(out, part.T, hidden, scale * self.weight, accumulate=rows.start > 0)
