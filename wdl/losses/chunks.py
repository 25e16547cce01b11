"""The mixed loss of chunks of tokens, one after the other, with their gradients and dynamics."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wdl.losses.logit_statistics import (
    DynamicsLevel,
    LogitDynamics,
    cheap_dynamics,
    concatenate,
    full_dynamics_,
    softmax_,
)
from wdl.losses.matmul import HeadProduct, sum_dtype

BLOCKS_PER_CHUNK = 4
"""Full statistics need two buffers more; taking a part of the chunk at a time keeps them small."""

Shares = list[tuple[HeadProduct, float]]
"""The branches, strong first, and the weight of each in the mixed logits."""


@dataclass
class MixedChunks:
    """What a mixed loss is asked for, and the dynamics that it collects on the way.

    Args:
        lam: λ, the weight of the strong branch.
        denominator: What the sum over tokens is divided by.
        level: Which statistics to collect.
        chunk_bytes: Memory for the logits of a chunk.
    """

    lam: float
    denominator: float
    level: DynamicsLevel
    chunk_bytes: int
    collected: list[LogitDynamics] = field(default_factory=list)

    def loss(self, labels: Tensor, strong: HeadProduct, weak: HeadProduct | None = None) -> Tensor:
        """Σ −ln P_mixed[y] / denominator; leaves the gradients in the branches.

        Args:
            labels: [N], all of which count.
            strong: The strong branch.
            weak: The weak one, if any.
        """
        shares = [(strong, self.lam)]
        if weak is not None:
            shares.append((weak, 1 - self.lam))
        if self.level == "cheap":
            pairs = (branch.target_and_mean(labels) for branch, _ in shares)
            self.collected.append(cheap_dynamics(*pairs, lam=self.lam))
        full = self.level == "full"
        take, buffers = (self._full, len(shares)) if full else (self._plain, 1)
        losses = []
        for rows, chunk, logits in chunks(strong, labels, self.chunk_bytes, buffers):
            losses.append(take(shares, rows, chunk, logits))
            for branch, share in shares:
                branch.add_gradients(logits[0], rows, share / self.denominator)
        return torch.cat(losses).sum() / self.denominator

    def dynamics(self) -> LogitDynamics:
        """Statistics of all tokens, in their order."""
        return concatenate(self.collected)

    def _plain(self, shares: Shares, rows: slice, labels: Tensor, logits: list[Tensor]) -> Tensor:
        """Losses [C] of a chunk; `logits[0]` ends as P_mixed − e_y."""
        mixed = logits[0]
        for i, (branch, share) in enumerate(shares):
            branch.add_logits_(mixed, rows, share, accumulate=i > 0)
        softmax = softmax_(mixed, labels, out=mixed)
        softmax.residual_()
        return softmax.nll()

    def _full(self, shares: Shares, rows: slice, labels: Tensor, logits: list[Tensor]) -> Tensor:
        """The same, with the logits of strong and weak kept apart for the statistics."""
        for (branch, _), own in zip(shares, logits, strict=True):
            branch.add_logits_(own, rows, 1, accumulate=False)
        losses = []
        blocks = [part.tensor_split(BLOCKS_PER_CHUNK) for part in (labels, *logits)]
        for y, *both in zip(*blocks, strict=True):
            loss, dynamics = full_dynamics_(*both, labels=y, lam=self.lam)
            losses.append(loss)
            self.collected.append(dynamics)
        return torch.cat(losses)


def chunks(
    branch: HeadProduct, labels: Tensor, chunk_bytes: int, buffers: int
) -> Iterator[tuple[slice, Tensor, list[Tensor]]]:
    """Tokens in their order, as many at a time as the memory allows, spread evenly.

    Without any token there is one empty chunk, which sets the gradients to 0.

    Args:
        branch: Whose vocabulary and dtype the logits have.
        labels: [N].
        chunk_bytes: Memory for the logits of a chunk.
        buffers: How many to lend.

    Yields:
        The chunk's rows, its labels [C, 1], and the buffers [C, V] for its logits, which the
        next chunk overwrites.
    """
    vocabulary, dtype = len(branch.head), sum_dtype(branch.head.dtype)
    copy = branch.dtype.itemsize if branch.dtype.itemsize == 2 else 0
    count = -(-len(labels) * vocabulary * (dtype.itemsize + copy) // chunk_bytes) or 1
    size = max(1, -(-len(labels) // count))
    lent = [labels.new_empty(size, vocabulary, dtype=dtype) for _ in range(buffers)]
    for start in range(0, max(1, len(labels)), size):
        rows = slice(start, start + size)
        chunk = labels[rows].unsqueeze(1)
        yield rows, chunk, [buffer[: len(chunk)] for buffer in lent]
