"""Entropy of a branch's predictions: how uncertain it is about each answer, in nats.

H(x) = mean over completion tokens t of −Σ_v P(v | prefix before t)·ln P(v | prefix before t)
(arXiv 2602.08222), under the template, mask and truncation that training uses. The distribution
that predicts token t is read at position t−1.
"""

from functools import reduce

import torch
from torch import Tensor

from wdl.losses.matmul import TILE_BYTES, add_product_, sum_dtype

LOGIT_BYTES = 64 * 2**20
"""Memory for the logits of a tile of the vocabulary."""
BLOCK_BYTES = 2 * 2**20
"""Logits whose exponentials a CPU takes at a time: few enough to stay in its cache."""


@torch.no_grad()
def token_entropy(hidden: Tensor, head: Tensor) -> Tensor:
    """Entropy of softmax(hidden @ head.T), never holding more logits than those of a tile.

    The vocabulary is what is tiled: the head, by far the largest operand, is then read once.

    Args:
        hidden: [N, H], what the output head reads.
        head: [V, H], its weight. 16-bit operands are multiplied into float32.

    Returns:
        [N] float32 (float64 for float64), nats.
    """
    dtype = sum_dtype(head.dtype)
    columns = max(1, LOGIT_BYTES // (dtype.itemsize * max(1, len(hidden))))
    if not head.is_cuda:
        hidden = hidden.to(dtype)
    if dtype != head.dtype and not head.is_cuda:
        columns = min(columns, max(1, TILE_BYTES // (dtype.itemsize * head.shape[1])))
    columns = min(columns, len(head))
    buffer = hidden.new_empty(len(hidden) * columns, dtype=dtype)
    _, others, expected = reduce(
        _merge, (_tile(hidden, tile, buffer) for tile in head.split(columns))
    )
    return (others.log1p() - expected / (1 + others)).to(dtype)


def _tile(hidden: Tensor, tile: Tensor, buffer: Tensor) -> Tensor:
    """What a tile [C, H] of the vocabulary adds, as [3, N] float64, with z its logits.

    m = max z; Σe^(z−m) without that maximum's own term, which is 1; Σ(z−m)e^(z−m).
    """
    logits = buffer[: len(hidden) * len(tile)].view(len(hidden), len(tile))
    widened = tile if tile.is_cuda else tile.to(buffer.dtype)
    add_product_(logits, hidden, widened.T, 1, accumulate=False)
    rows = len(logits) if logits.is_cuda else BLOCK_BYTES // (logits.itemsize * len(tile))
    rows = max(1, rows)
    # made beforehand: small results between freed blocks would keep the allocator from using them
    sums = logits.new_empty(3, len(logits), dtype=torch.float64)
    for block, out in zip(logits.split(rows), sums.split(rows, dim=1), strict=True):
        _sums_(block, out)
    return sums


def _sums_(logits: Tensor, out: Tensor) -> None:
    """The sums over rows of ``logits``, which are overwritten.

    The maximum's term is exactly 1; taken off in float64, it leaves every digit of the others.
    """
    out[0] = logits.amax(dim=-1)
    logits -= out[0, :, None].to(logits.dtype)
    weights = logits.exp()
    out[1] = weights.sum(dim=-1, dtype=torch.float64) - 1
    out[2] = torch.linalg.vecdot(weights, logits)


def _merge(a: Tensor, b: Tensor) -> Tensor:
    """The sums over two tiles together, relative to the larger maximum."""
    maximum = torch.maximum(a[0], b[0])
    below = torch.stack([a[0], b[0]]) - maximum  # one of the two is 0
    scale = below.exp()
    others, expected = torch.stack([a[1:], b[1:]], dim=1)
    expected = (scale * (expected + below * (1 + others))).sum(0)
    return torch.stack([maximum, (scale * others).sum(0) + scale.amin(0), expected])
