"""Cross-entropy of the mixed logits of a strong and a weak branch, without materialising them."""

from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from wdl.constants import IGNORE_INDEX
from wdl.losses.chunks import MixedChunks
from wdl.losses.logit_statistics import DynamicsLevel, LogitDynamics
from wdl.losses.matmul import HeadProduct, sum_dtype

CHUNK_BYTES = {"cpu": 192 * 2**20, "cuda": 2**30}
"""Default memory for the logits of one chunk. With fewer than about 256 tokens in it on a CPU, or
1024 on a GPU, matrix products slow down; more tokens only cost memory."""


class MixedLoss(NamedTuple):
    """Loss of a batch and what its logits looked like.

    Attributes:
        loss: Scalar, attached to the graph.
        dynamics: Statistics of the logits, one value per token that counts.
    """

    loss: Tensor
    dynamics: LogitDynamics


@overload
def mixed_linear_cross_entropy(
    hidden_strong: Tensor,
    head_strong: Tensor,
    hidden_weak: Tensor | None,
    head_weak: Tensor | None,
    labels: Tensor,
    lam: float,
    *,
    denominator: float | None = None,
    dynamics: Literal["off"] = "off",
    chunk_bytes: int | None = None,
) -> Tensor: ...


@overload
def mixed_linear_cross_entropy(
    hidden_strong: Tensor,
    head_strong: Tensor,
    hidden_weak: Tensor | None,
    head_weak: Tensor | None,
    labels: Tensor,
    lam: float,
    *,
    denominator: float | None = None,
    dynamics: Literal["cheap", "full"],
    chunk_bytes: int | None = None,
) -> MixedLoss: ...


@torch.compiler.disable
def mixed_linear_cross_entropy(
    hidden_strong: Tensor,
    head_strong: Tensor,
    hidden_weak: Tensor | None,
    head_weak: Tensor | None,
    labels: Tensor,
    lam: float,
    *,
    denominator: float | None = None,
    dynamics: DynamicsLevel = "off",
    chunk_bytes: int | None = None,
) -> Tensor | MixedLoss:
    """Cross-entropy of z = λ·h_s·W_sᵀ + (1−λ)·h_w·W_wᵀ against the labels.

    The loss of weak-driven joint training (arXiv 2602.08222): each branch's logits receive the
    gradient of the mixed softmax, times its share. Logits exist for one chunk of counted tokens
    at a time; gradients are computed with them, so the heads are read in the forward pass only.
    Products use autocast's dtype inside autocast, else that of their operands; z, its softmax and
    the loss are float32, or float64 for float64 inputs.

    Args:
        hidden_strong: [N, H] final hidden states of the strong branch.
        head_strong: [V, H] its output head, of the same dtype unless autocast is on.
        hidden_weak: [N, H'] of the weak branch; None for z = λ·h_s·W_sᵀ (at λ = 1 plain SFT).
        head_weak: [V, H'], likewise.
        labels: [N] int64, the token that each position predicts (nothing is shifted here);
            IGNORE_INDEX where a position does not count.
        lam: λ in [0, 1], the weight of the strong branch.
        denominator: What the sum over counted tokens is divided by, so that micro-batches and
            ranks add up to one mean; the number of counted tokens if None.
        dynamics: Whether to return statistics of the logits too: "cheap" (target and mean
            non-target logit) costs nothing measurable, "full" some passes over the logits.
        chunk_bytes: Memory for the logits of one chunk; a default for the device if None.

    Returns:
        The loss, a scalar; 0 with zero gradients if no token counts. It can be differentiated
        once. With dynamics, the pair (loss, dynamics).

    Raises:
        ValueError: If an argument is out of range or shapes, dtypes or devices do not agree.
    """
    if not 0 <= lam <= 1:
        raise ValueError(f"lam must lie in [0, 1], got {lam}")
    pairs = {"strong": (hidden_strong, head_strong)}
    if hidden_weak is not None and head_weak is not None:
        pairs["weak"] = (hidden_weak, head_weak)
    elif hidden_weak is not head_weak:
        raise ValueError("hidden_weak and head_weak go together; one of them is None")
    _check_tensors(pairs, labels)
    kept = (labels != IGNORE_INDEX).nonzero().squeeze(1)
    counted = labels[kept]
    _check_labels(counted, len(head_strong))
    chunks = MixedChunks(
        lam=float(lam),
        denominator=_divisor(denominator, len(counted)),
        level=dynamics,
        chunk_bytes=chunk_bytes or CHUNK_BYTES[labels.device.type],
    )
    tensors = [t for hidden, head in pairs.values() for t in (hidden.index_select(0, kept), head)]
    # inside a Function, needs_input_grad is True under no_grad as well
    wanted = torch.is_grad_enabled()
    loss = _MixedLinearCrossEntropy.apply(chunks, wanted, counted, *tensors)
    return loss if dynamics == "off" else MixedLoss(loss, chunks.dynamics())


class _MixedLinearCrossEntropy(torch.autograd.Function):
    """Computes the gradients along with the loss; backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any, chunks: MixedChunks, wanted: bool, labels: Tensor, *tensors: Tensor
    ) -> Tensor:
        needs = [need and wanted for need in ctx.needs_input_grad[3:]]
        operands = zip(tensors[::2], tensors[1::2], needs[::2], needs[1::2], strict=True)
        branches = [HeadProduct(*each) for each in operands]
        with torch.autocast(labels.device.type, enabled=False):
            loss = chunks.loss(labels, *branches)
        ctx.gradients = [each for b in branches for each in (b.grad_hidden, b.grad_head)]
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the mixed loss has no second derivative; drop create_graph=True")
        if ctx.gradients is None:
            raise RuntimeError("the mixed loss can be differentiated once; compute it again")
        gradients, ctx.gradients = ctx.gradients, None
        return None, None, None, *(each and each.take(grad_output) for each in gradients)


def _divisor(denominator: float | None, counted: int) -> float:
    if denominator is None:
        return float(max(1, counted))
    if denominator < 0 or (counted and denominator == 0):
        raise ValueError(f"denominator must be positive, got {denominator}")
    return float(denominator or 1)


def _check_tensors(pairs: dict[str, tuple[Tensor, Tensor]], labels: Tensor) -> None:
    if labels.dim() != 1 or labels.dtype != torch.int64:
        raise ValueError(f"labels must be [N] int64, got {list(labels.shape)} {labels.dtype}")
    autocast = torch.is_autocast_enabled(labels.device.type)
    vocabulary = len(pairs["strong"][1])
    for name, (hidden, head) in pairs.items():
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
    if len({sum_dtype(head.dtype) for _, head in pairs.values()}) > 1:
        raise ValueError("a float64 branch mixes with float64 branches only")


def _check_labels(counted: Tensor, vocabulary: int) -> None:
    if len(counted) == 0:
        return
    low, high = torch.stack(counted.aminmax()).tolist()
    if low < 0 or high >= vocabulary:
        raise ValueError(f"labels span [{low}, {high}], the vocabulary is [0, {vocabulary - 1}]")
