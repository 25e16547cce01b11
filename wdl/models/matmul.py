"""Products of a chunk of tokens with an output head, at the precision that each device offers.

Operands are used as they are (float32, float64) or in 16 bits; sums that are read again, such as
logits and the gradient of the hidden states, are kept in float32. CUDA multiplies 16-bit operands
into float32 directly. A CPU cannot: it multiplies vocabulary tiles that fit its cache, in bfloat16
where it has the instructions, otherwise in float32 after widening the tile.

Shapes: C tokens of a chunk, H hidden size, V vocabulary.
"""

from collections.abc import Sequence

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


class Gradient:
    """Sum of products in float32 (or float64), later given out once in the dtype of its tensor.

    Args:
        like: The tensor whose gradient it is, [M, H].
        ranges: Rows of each part. Parts are freed one by one as they are given out, so that the
            float32 sum and the 16-bit result never exist side by side.
    """

    def __init__(self, like: Tensor, ranges: Sequence[slice]) -> None:
        self.shape, self.dtype = like.shape, like.dtype
        dtype = accumulation_dtype(like.dtype)
        self.parts = [torch.empty_like(like[rows], dtype=dtype) for rows in ranges]

    def take(self, scale: Tensor) -> Tensor:
        """The gradient times a scalar."""
        if len(self.parts) == 1:
            return self.parts.pop().mul_(scale).to(self.dtype)
        whole = self.parts[0].new_empty(self.shape, dtype=self.dtype)
        start = 0
        while self.parts:
            part = self.parts.pop(0)
            torch.mul(part, scale, out=whole[start : start + len(part)])
            start += len(part)
        return whole


class HeadProduct:
    """One branch's hidden states times its output head, and the gradients of both.

    Args:
        hidden: [N, H].
        head: [V, H].
        hidden_grad: Whether the gradient of `hidden` is wanted.
        head_grad: Whether the gradient of `head` is wanted.
    """

    def __init__(self, hidden: Tensor, head: Tensor, hidden_grad: bool, head_grad: bool) -> None:
        self.hidden, self.head = _operand(hidden), _operand(head)
        self.sum_dtype = accumulation_dtype(head.dtype)
        self.grad_hidden = Gradient(hidden, [slice(0, len(hidden))]) if hidden_grad else None
        self.grad_head = Gradient(head, self.tiles()) if head_grad else None

    def tiles(self) -> list[slice]:
        """Ranges of the vocabulary that are multiplied one after the other."""
        vocabulary, size = self.head.shape
        narrow = self.head.device.type == "cpu" and self.head.element_size() == 2
        step = max(1, TILE_BYTES // (4 * size)) if narrow else vocabulary
        return [slice(i, i + step) for i in range(0, vocabulary, step)]

    def add_logits_(self, out: Tensor, rows: slice, weight: float, *, accumulate: bool) -> None:
        """Set `out` [C, V] to weight·hidden·headᵀ of some tokens, or add that if `accumulate`."""
        dtype = product_dtype(self.head)
        hidden = self.hidden[rows].to(dtype)
        for tile in self.tiles():
            head = self.head[tile].to(dtype)
            add_product_(out[:, tile], hidden, head.T, weight, accumulate=accumulate)

    def add_gradients(self, residual: Tensor, rows: slice, scale: float) -> None:
        """Take in ∂loss/∂z = scale·residual [C, V] of some tokens.

        The gradient of their hidden states is set, that of the head added to what came before;
        so calls go through the tokens in order, from the first.
        """
        if self.grad_hidden is None and self.grad_head is None:
            return
        dtype = product_dtype(self.head)
        hidden = self.hidden[rows].to(dtype)
        for i, tile in enumerate(self.tiles()):
            part = residual[:, tile].to(dtype)
            if self.grad_hidden is not None:
                head, out = self.head[tile].to(dtype), self.grad_hidden.parts[0][rows]
                add_product_(out, part, head, scale, accumulate=i > 0)
            if self.grad_head is not None:
                out = self.grad_head.parts[i]
                add_product_(out, part.T, hidden, scale, accumulate=rows.start > 0)

    def target_and_mean(self, labels: Tensor) -> Tensor:
        """Target logit and mean of the others, [2, N], with no pass over the logits.

        Args:
            labels: [N].
        """
        hidden = self.hidden.to(self.sum_dtype)
        target = (hidden * self.head[labels]).sum(1)
        total = hidden @ self.head.sum(0, dtype=self.sum_dtype)
        return torch.stack((target, (total - target) / (len(self.head) - 1)))


def _operand(tensor: Tensor) -> Tensor:
    """The tensor in the dtype that autocast, if on, wants for matrix products."""
    kind = tensor.device.type
    if torch.is_autocast_enabled(kind) and tensor.dtype != torch.float64:
        return tensor.to(torch.get_autocast_dtype(kind))
    return tensor
