"""Entropy of a branch's predictions: how uncertain it is about each answer, in nats.

H(x) = mean over completion tokens t of −Σ_v P(v | prefix before t)·ln P(v | prefix before t)
(arXiv 2602.08222), under the template, mask and truncation that training uses. The distribution
that predicts token t is read at position t−1.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from wdl.constants import IGNORE_INDEX
from wdl.models.branches import hidden_states, output_head
from wdl.models.matmul import TILE_BYTES, add_product_, sum_dtype

LOGIT_BYTES = 128 * 2**20
"""Memory for the logits of a chunk of tokens."""
BLOCK_BYTES = 4 * 2**20
"""Logits whose exponentials a CPU takes at a time: few enough to stay in its cache."""


@torch.no_grad()
def token_entropy(hidden: Tensor, head: Tensor) -> Tensor:
    """Entropy of softmax(hidden @ head.T), never holding the logits of more than a chunk.

    Args:
        hidden: [N, H], what the output head reads.
        head: [V, H], its weight. 16-bit operands are multiplied into float32.

    Returns:
        [N] float32 (float64 for float64), nats.
    """
    dtype = sum_dtype(head.dtype)
    entropy = hidden.new_empty(len(hidden), dtype=dtype)
    rows = max(1, LOGIT_BYTES // (dtype.itemsize * len(head)))
    block = rows if hidden.is_cuda else max(1, BLOCK_BYTES // (dtype.itemsize * len(head)))
    buffer = entropy.new_empty(min(rows, len(hidden)), len(head))
    for tokens, out in zip(hidden.split(rows), entropy.split(rows), strict=True):
        logits = buffer[: len(tokens)]
        _multiply(logits, tokens, head)
        for z, h in zip(logits.split(block), out.split(block), strict=True):
            h.copy_(_entropy_(z))
    return entropy


def _multiply(out: Tensor, hidden: Tensor, head: Tensor) -> None:
    """Set ``out`` [C, V] to hidden @ head.T, in the precision of ``out``."""
    if head.is_cuda or head.dtype == out.dtype:
        add_product_(out, hidden, head.T, 1, accumulate=False)
        return
    rows = max(1, TILE_BYTES // (out.element_size() * head.shape[1]))
    for tile, columns in zip(head.split(rows), out.split(rows, dim=1), strict=True):
        add_product_(columns, hidden.to(out.dtype), tile.to(out.dtype).T, 1, accumulate=False)


def _entropy_(logits: Tensor) -> Tensor:
    """ln(1+S) − Σ z·e^z / (1+S), z shifted by its maximum, S = Σe^z without that maximum.

    The largest term is exactly 1; taken off in float64, it leaves every digit of small entropies.
    Overwrites ``logits`` [C, V].
    """
    logits -= logits.amax(dim=-1, keepdim=True)
    weights = logits.exp()
    others = weights.sum(dim=-1, dtype=torch.float64) - 1
    expected = torch.linalg.vecdot(weights, logits)
    return others.log1p() - expected / (1 + others)


@torch.no_grad()
def sample_entropies(model: PreTrainedModel, batch: dict[str, Any]) -> list[float]:
    """Mean completion-token entropy of each sample of a padded batch, in nats."""
    device = model.device
    labels = batch["labels"].to(device)
    hidden = hidden_states(model, batch["input_ids"].to(device), batch["attention_mask"].to(device))
    counted = labels != IGNORE_INDEX
    entropy = torch.zeros(labels.shape, dtype=torch.float64, device=device)
    entropy[counted] = token_entropy(hidden[counted], output_head(model).weight).double()
    return (entropy.sum(dim=1) / counted.sum(dim=1)).tolist()
