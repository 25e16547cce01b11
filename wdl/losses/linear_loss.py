"""What the losses on hidden states and output heads share: checks and the autograd Function."""

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from wdl.constants import IGNORE_INDEX
from wdl.losses.matmul import HeadProduct, sum_dtype

Operands = dict[str, tuple[Tensor, Tensor]]
"""Hidden states [N, H] and output head [V, H] of each branch, by its name; "strong" comes first."""


def counted_positions(operands: Operands, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Positions that count and their labels, [C] each.

    Raises:
        ValueError: If shapes, dtypes or devices do not agree, or a label lies outside the
            vocabulary.
    """
    _check_tensors(operands, labels)
    vocabulary = len(operands["strong"][1])
    counts = labels != IGNORE_INDEX
    faulty = counts & ((labels < 0) | (labels >= vocabulary))
    # all that the host has to know of the labels, at once: it waits for a GPU each time
    number, faults = torch.stack((counts.sum(), faulty.sum())).tolist()
    if faults:
        low, high = labels[counts].aminmax()
        raise ValueError(
            f"labels span [{low.item()}, {high.item()}], the vocabulary is [0, {vocabulary - 1}]"
        )
    kept = torch.nonzero_static(counts, size=number).squeeze(1)
    return kept, labels[kept]


def divisor(denominator: float, counted: int) -> float:
    """The denominator, or 1 where it is 0 because nothing counts.

    Raises:
        ValueError: If it is negative, or 0 although something counts.
    """
    if denominator < 0 or (counted and denominator == 0):
        raise ValueError(f"denominator must be positive, got {denominator}")
    return float(denominator or 1)


def linear_loss(
    loss: Callable[..., Tensor], operands: Operands, kept: Tensor, counted: Tensor
) -> Tensor:
    """A loss that computes the gradients of its operands along with itself.

    Args:
        loss: Called with the counted labels and a `HeadProduct` of the counted positions for each
            branch; returns a scalar and leaves the gradients in the products.
        operands: The branches.
        kept: [C], from `counted_positions`.
        counted: [C], likewise.

    Returns:
        The scalar, attached to the graph. It can be differentiated once.
    """
    pairs = [(hidden.index_select(0, kept), head) for hidden, head in operands.values()]
    # inside a Function, needs_input_grad is True under no_grad as well
    return _LinearLoss.apply(loss, torch.is_grad_enabled(), counted, *chain(*pairs))


class _LinearLoss(torch.autograd.Function):
    """Computes the gradients along with the loss; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, loss: Callable[..., Tensor], wanted: bool, labels: Tensor, *tensors: Tensor
    ) -> Tensor:
        needs = [need and wanted for need in ctx.needs_input_grad[3:]]
        operands = zip(tensors[::2], tensors[1::2], needs[::2], needs[1::2], strict=True)
        branches = [HeadProduct(*each) for each in operands]
        with torch.autocast(labels.device.type, enabled=False):
            result = loss(labels, *branches)
        ctx.gradients = [each for b in branches for each in (b.grad_hidden, b.grad_head)]
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("a fused loss has no second derivative; drop create_graph=True")
        if ctx.gradients is None:
            raise RuntimeError("a fused loss can be differentiated once; compute it again")
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, None, *(each and each.take(grad_output) for each in gradients)


def _check_tensors(operands: Operands, labels: Tensor) -> None:
    if labels.dim() != 1 or labels.dtype != torch.int64:
        raise ValueError(f"labels must be [N] int64, got {list(labels.shape)} {labels.dtype}")
    autocast = torch.is_autocast_enabled(labels.device.type)
    vocabulary = len(operands["strong"][1])
    for name, (hidden, head) in operands.items():
        wanted = (len(labels), vocabulary, head.shape[-1])
        if head.dim() != 2 or (*hidden.shape[:-1], len(head), hidden.shape[-1]) != wanted:
            raise ValueError(
                f"{name} branch: hidden {list(hidden.shape)} and head {list(head.shape)} do not "
                f"fit {len(labels)} labels and a vocabulary of {vocabulary}"
            )
        if hidden.dtype != head.dtype and not autocast:
            raise ValueError(
                f"{name} branch: hidden is {hidden.dtype}, head {head.dtype}; cast one"
            )
        if {hidden.device, head.device} != {labels.device}:
            raise ValueError(
                f"{name} branch: hidden on {hidden.device}, head on {head.device}, "
                f"labels on {labels.device}"
            )
    if len({sum_dtype(head.dtype) for _, head in operands.values()}) > 1:
        raise ValueError("a float64 branch mixes with float64 branches only")
