"""Cross-entropy of the mixed logits of a strong and a weak branch, without materialising them."""

from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

from wdl.losses.chunks import MixedChunks
from wdl.losses.linear_loss import counted_positions, divisor, linear_loss
from wdl.losses.logit_statistics import DynamicsLevel, LogitDynamics

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
    operands = {"strong": (hidden_strong, head_strong)}
    if hidden_weak is not None and head_weak is not None:
        operands["weak"] = (hidden_weak, head_weak)
    elif hidden_weak is not head_weak:
        raise ValueError("hidden_weak and head_weak go together; one of them is None")
    kept, counted = counted_positions(operands, labels)
    if denominator is None:
        denominator = len(counted)
    chunks = MixedChunks(
        lam=float(lam),
        denominator=divisor(denominator, len(counted)),
        level=dynamics,
        chunk_bytes=chunk_bytes or CHUNK_BYTES[labels.device.type],
    )
    loss = linear_loss(chunks.loss, operands, kept, counted)
    return loss if dynamics == "off" else MixedLoss(loss, chunks.dynamics())
