"""Products of chunks of tokens with an output head, at the precision that each device offers.

Whatever the operands, logits and gradients are summed in float32 (float64 for float64). CUDA
multiplies 16-bit operands into float32 directly. A CPU cannot; there the head is taken in tiles of
the vocabulary, widened to float32, or multiplied in bfloat16 if the CPU has instructions for that.

Shapes: C tokens of a chunk out of N, H hidden size, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

TILE_BYTES = 8 * 2**20
"""Memory of one tile in float32, which should stay in the cache of the CPU."""
PART_BYTES = 36 * 2**20
"""Memory of one part of a head's float32 gradient. Memory below 32 MiB is kept by glibc when it is
freed; of parts above that size, no more than one exists beside the 16-bit result."""


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """Dtype of logits and sums over operands of `dtype`."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def product_dtype(operand: Tensor) -> torch.dtype:
    """Dtype in which this device multiplies tensors like `operand` fastest."""
    if operand.is_cuda or operand.dtype == sum_dtype(operand.dtype):
        return operand.dtype
    # without AVX-512, a CPU emulates 16-bit products, at a fraction of its speed in float32
    native = "AVX512" in torch.backends.cpu.get_cpu_capability()
    return operand.dtype if native and operand.dtype == torch.bfloat16 else torch.float32


def add_product_(out: Tensor, a: Tensor, b: Tensor, scale: float, *, accumulate: bool) -> None:
    """Set `out` to scale·a·b, or add that to it if `accumulate`.

    Args:
        out: [M, N], of the dtype of `a` or, where that has 16 bits, float32.
        a: [M, K].
        b: [K, N].
        scale: Factor, applied in the dtype of `out`.
        accumulate: If not set, what `out` holds is never read.
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
    """A sum of products, given out once, in the dtype of the tensor that it is the gradient of.

    Args:
        like: That tensor, [M, H].
        parts: Ranges of its rows that are summed apart. They are freed one by one as they are
            given out, so that the float32 sum and a 16-bit result do not exist side by side.
    """

    def __init__(self, like: Tensor, parts: Sequence[slice]) -> None:
        self.shape, self.dtype = like.shape, like.dtype
        self.parts = [torch.empty_like(like[part], dtype=sum_dtype(like.dtype)) for part in parts]

    def take(self, scale: Tensor) -> Tensor:
        """The gradient times a scalar, [M, H]."""
        if len(self.parts) == 1:
            return self.parts.pop().mul_(scale).to(self.dtype)
        whole = self.parts[0].new_empty(self.shape, dtype=self.dtype)
        start = 0
        while self.parts:
            part = self.parts.pop(0)
            whole[start : start + len(part)] = part.mul_(scale)
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
        self.dtype = product_dtype(self.head)
        self.tiles = self._ranges(TILE_BYTES)
        self.widened = self.head.new_empty(
            0 if self.dtype == self.head.dtype else self.tiles[0].stop,
            self.head.shape[1],
            dtype=self.dtype,
        )
        self.grad_hidden = Gradient(hidden, [slice(0, len(hidden))]) if hidden_grad else None
        self.grad_head = Gradient(head, self._ranges(PART_BYTES)) if head_grad else None

    @property
    def trains(self) -> bool:
        """Whether any gradient is wanted."""
        return self.grad_hidden is not None or self.grad_head is not None

    def add_logits_(self, out: Tensor, rows: slice, weight: float, *, accumulate: bool) -> None:
        """Set `out` [C, V] to weight·hidden·headᵀ of some tokens, or add that if `accumulate`."""
        hidden = self.hidden[rows].to(self.dtype)
        for tile in self.tiles:
            add_product_(out[:, tile], hidden, self._rows(tile).T, weight, accumulate=accumulate)

    def add_gradients(self, residual: Tensor, rows: slice, scale: float) -> None:
        """Take in ∂loss/∂z = scale·residual [C, V] of some tokens.

        The gradient of their hidden states is set, that of the head added to what came before;
        so calls go through the tokens in order, from the first. The residual is of ``dtype``.
        """
        if self.grad_hidden is not None:
            out = self.grad_hidden.parts[0][rows]
            if self.dtype == self.head.dtype:
                add_product_(out, residual, self.head, scale, accumulate=False)
            else:
                for tile in self.tiles:
                    add_product_(
                        out, residual[:, tile], self._rows(tile), scale, accumulate=tile.start > 0
                    )
        if self.grad_head is not None:
            hidden = self.hidden[rows].to(self.dtype)
            columns = residual.split([len(part) for part in self.grad_head.parts], dim=1)
            for out, part in zip(self.grad_head.parts, columns, strict=True):
                add_product_(out, part.T, hidden, scale, accumulate=rows.start > 0)

    def target_and_mean(self, labels: Tensor) -> Tensor:
        """Target logit and mean of the others, [2, N], without a pass over the logits.

        Args:
            labels: [N].
        """
        dtype = sum_dtype(self.head.dtype)
        hidden = self.hidden.to(dtype)
        target = (hidden * self.head[labels]).sum(1)
        total = hidden @ self.head.sum(0, dtype=dtype)
        return torch.stack((target, (total - target) / (len(self.head) - 1)))

    def _rows(self, tile: slice) -> Tensor:
        """Rows of the head, in the dtype of products, until the next call."""
        rows = self.head[tile]
        return rows if self.dtype == rows.dtype else self.widened[: len(rows)].copy_(rows)

    def _ranges(self, size: int) -> list[slice]:
        """Ranges of the vocabulary of `size` bytes in float32; one for all where that will do."""
        vocabulary, width = self.head.shape
        narrow = self.head.device.type == "cpu" and self.head.element_size() == 2
        step = max(1, size // (4 * width)) if narrow else vocabulary
        return [slice(start, start + step) for start in range(0, vocabulary, step)]


def _operand(tensor: Tensor) -> Tensor:
    """The tensor in the dtype that autocast, if on, wants for matrix products."""
    kind = tensor.device.type
    if torch.is_autocast_enabled(kind) and tensor.dtype != torch.float64:
        return tensor.to(torch.get_autocast_dtype(kind))
    return tensor
