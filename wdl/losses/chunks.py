"""Losses of chunks of tokens, one after the other, with their gradients and dynamics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch
from torch import Tensor

from wdl.losses.buffers import Buffers, sent
from wdl.losses.logit_statistics import (
    DynamicsLevel,
    LogitDynamics,
    Softmax,
    cheap_dynamics,
    concatenate,
    full_dynamics_,
    softmax_,
)
from wdl.losses.matmul import HeadProduct

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
        take, count = (self._full, len(shares)) if full else (self._plain, 1)
        buffers = Buffers([branch for branch, _ in shares], self.chunk_bytes, count)
        scaled = [(branch, share / self.denominator) for branch, share in shares]
        losses = []
        for rows in buffers.parts(0, len(labels)):
            chunk = labels[rows].unsqueeze(1)
            logits = [buffer[: len(chunk)] for buffer in buffers.logits]
            losses.append(take(shares, rows, chunk, logits))
            buffers.add_gradients(logits[0], rows, scaled)
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


@dataclass
class SequenceChunks:
    """A loss of sequences' log-probabilities, and these, which it collects on the way.

    Args:
        lengths: [S], tokens of each sequence.
        ties: Pairs of sequences that one term of the loss reads together.
        loss_of: The loss of a range of sequences that no tie leaves, a scalar, from their sums of
            log-probabilities, float64.
        denominator: What the sum of these losses is divided by.
        chunk_bytes: Memory for the logits of a chunk.
    """

    lengths: Sequence[int]
    ties: Sequence[tuple[int, int]]
    loss_of: Callable[[slice, Tensor], Tensor]
    denominator: float
    chunk_bytes: int
    collected: list[Tensor] = field(default_factory=list)

    def loss(self, labels: Tensor, branch: HeadProduct) -> Tensor:
        """Σ loss_of / denominator; leaves the gradients in the branch.

        The tokens of a range that fit into a chunk are passed once. Those of a longer one are
        passed again when their weights are known, with what the first pass learnt of them.

        Args:
            labels: [N], all of which count.
            branch: Hidden states and head.
        """
        lengths = sent(self.lengths, torch.int64, labels.device)
        buffers, losses = Buffers([branch], self.chunk_bytes), []
        (logits,) = buffers.logits
        for sequences, parts in self._blocks(buffers):
            # backwards, so that the exponentials of the first are at hand when its turn comes
            passed = [_softmax(branch, rows, labels, logits) for rows in reversed(parts)][::-1]
            nll = torch.cat([softmax.nll() for softmax in passed])
            own = lengths[sequences]
            sums = torch.segment_reduce(-nll.double(), "sum", lengths=own, initial=0, unsafe=True)
            self.collected.append(sums)
            if not branch.trains:
                losses.append(self.loss_of(sequences, sums))
                continue
            loss, slopes = self._differentiate(sequences, sums)
            losses.append(loss)
            weights = -slopes.repeat_interleave(own, output_size=len(nll)).to(nll.dtype)
            self._add_gradients(branch, buffers, parts, passed, weights.unsqueeze(1))
        return (torch.stack(losses).sum() / self.denominator).to(logits.dtype)

    def logps(self) -> Tensor:
        """Sum of the log-probabilities of each sequence, [S] float64."""
        return torch.cat(self.collected)

    def _differentiate(self, sequences: slice, sums: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of some sequences and its derivative by each of their sums."""
        with torch.enable_grad():
            leaf = sums.detach().requires_grad_()
            loss = self.loss_of(sequences, leaf)
        (slopes,) = torch.autograd.grad(loss, leaf)
        return loss.detach(), slopes

    def _add_gradients(
        self,
        branch: HeadProduct,
        buffers: Buffers,
        parts: list[slice],
        passed: list[Softmax],
        weights: Tensor,
    ) -> None:
        """Second pass over a block: what weights·nll, [C, 1] each, adds to the gradients."""
        start = parts[0].start
        for rows, softmax in zip(parts, passed, strict=True):
            if rows.start > start:
                branch.add_logits_(softmax.exponentials, rows, 1, accumulate=False)
                softmax.recompute_()
            residual = softmax.residual_(weights[rows.start - start : rows.stop - start])
            buffers.add_gradients(residual, rows, [(branch, 1 / self.denominator)])

    def _blocks(self, buffers: Buffers) -> list[tuple[slice, list[slice]]]:
        """Ranges of sequences that no tie leaves, each with the tokens of its chunks.

        There are as few as the memory allows, evenly long.
        """
        furthest = list(range(len(self.lengths)))
        for tie in self.ties:
            furthest[min(tie)] = max(furthest[min(tie)], *tie)
        closed = [i + 1 for i, last in enumerate(accumulate(furthest, max)) if i == last]
        ends = [0, *accumulate(self.lengths)]
        even = buffers.even(ends[-1])
        blocks = [slice(0, 0)]
        for stop in closed:
            first, last = blocks[-1].start, blocks[-1].stop
            tokens = ends[stop] - ends[first]
            fits = tokens <= buffers.rows
            if first == last or (fits and ends[last] - ends[first] < even):
                blocks[-1] = slice(first, stop)
            else:
                blocks.append(slice(last, stop))
        return [
            (block, list(buffers.parts(ends[block.start], ends[block.stop]))) for block in blocks
        ]


def _softmax(branch: HeadProduct, rows: slice, labels: Tensor, logits: Tensor) -> Softmax:
    """Softmax of some tokens' logits, whose place [C, V] its exponentials take."""
    out = logits[: rows.stop - rows.start]
    branch.add_logits_(out, rows, 1, accumulate=False)
    return softmax_(out, labels[rows].unsqueeze(1), out=out)
