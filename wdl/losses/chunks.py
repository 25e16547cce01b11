"""The mixed loss of chunks of tokens, one after the other, with their gradients and dynamics."""

from collections.abc import Sequence
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


@dataclass
class MixedChunks:
    """What a mixed loss is asked for, and the dynamics that it collects on the way.

    Args:
        lam: λ, the weight of the strong branch.
        weak_weights: Weight of each weak branch among them.
        denominator: What the sum over tokens is divided by.
        level: Which statistics to collect.
        chunk_bytes: Memory for the logits of a chunk.
    """

    lam: float
    weak_weights: list[float]
    denominator: float
    level: DynamicsLevel
    chunk_bytes: int
    collected: list[LogitDynamics] = field(default_factory=list)

    def loss(self, branches: Sequence[HeadProduct], labels: Tensor) -> Tensor:
        """Σ −ln P_mixed[y] / denominator; leaves the gradients in `branches`.

        Args:
            branches: Strong first, then the weak ones.
            labels: [N], all of which count.
        """
        if self.level == "cheap":
            self._collect_cheap(branches, labels)
        strong = branches[0]
        dtype = sum_dtype(strong.head.dtype)
        size = self._chunk_size(strong, len(labels))
        buffers = [
            labels.new_empty(size, len(strong.head), dtype=dtype)
            for _ in range(2 if self.level == "full" and len(branches) > 1 else 1)
        ]
        losses = []
        # without any token there is one empty chunk, which sets the gradients to 0
        for start in range(0, max(1, len(labels)), size):
            rows = slice(start, start + size)
            chunk = labels[rows].unsqueeze(1)
            logits = [buffer[: len(chunk)] for buffer in buffers]
            take = self._full if self.level == "full" else self._plain
            losses.append(take(branches, rows, chunk, logits))
            for branch, weight in zip(branches, self._mixture(), strict=True):
                branch.add_gradients(logits[0], rows, weight / self.denominator)
        return torch.cat(losses).sum() / self.denominator

    def dynamics(self) -> LogitDynamics:
        """Statistics of all tokens, in their order."""
        return concatenate(self.collected)

    def _mixture(self) -> list[float]:
        """Weight of each branch in the mixed logits."""
        return [self.lam, *((1 - self.lam) * weight for weight in self.weak_weights)]

    def _chunk_size(self, strong: HeadProduct, tokens: int) -> int:
        """Tokens per chunk: as many as the memory allows, spread evenly."""
        copy = strong.dtype.itemsize if strong.dtype.itemsize == 2 else 0
        row_bytes = len(strong.head) * (sum_dtype(strong.dtype).itemsize + copy)
        chunks = -(-tokens * row_bytes // self.chunk_bytes) or 1
        return max(1, -(-tokens // chunks))

    def _plain(
        self, branches: Sequence[HeadProduct], rows: slice, labels: Tensor, logits: list[Tensor]
    ) -> Tensor:
        """Losses [C] of a chunk; `logits[0]` ends as P_mixed − e_y."""
        mixed = logits[0]
        for i, (branch, weight) in enumerate(zip(branches, self._mixture(), strict=True)):
            branch.add_logits_(mixed, rows, weight, accumulate=i > 0)
        softmax = softmax_(mixed, labels, out=mixed)
        softmax.residual_()
        return softmax.nll()

    def _full(
        self, branches: Sequence[HeadProduct], rows: slice, labels: Tensor, logits: list[Tensor]
    ) -> Tensor:
        """The same, with the logits of strong and weak kept apart for the statistics."""
        branches[0].add_logits_(logits[0], rows, 1, accumulate=False)
        for i, (branch, weight) in enumerate(zip(branches[1:], self.weak_weights, strict=True)):
            branch.add_logits_(logits[1], rows, weight, accumulate=i > 0)
        losses = []
        blocks = [part.tensor_split(BLOCKS_PER_CHUNK) for part in (labels, *logits)]
        for y, strong, *weak in zip(*blocks, strict=True):
            loss, dynamics = full_dynamics_(strong, weak[0] if weak else None, y, self.lam)
            losses.append(loss)
            self.collected.append(dynamics)
        return torch.cat(losses)

    def _collect_cheap(self, branches: Sequence[HeadProduct], labels: Tensor) -> None:
        strong, *weak = (branch.target_and_mean(labels) for branch in branches)
        weighted = [w * pair for w, pair in zip(self.weak_weights, weak, strict=True)]
        combined = torch.stack(weighted).sum(0) if weighted else None
        self.collected.append(cheap_dynamics(strong, combined, self.lam))
