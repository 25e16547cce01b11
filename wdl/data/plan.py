"""The plan of an epoch: optimizer steps of a constant number of micro-batches.

The plan depends on the drawn samples, their lengths, the batch sizes and the seed, never on the
number of ranks. Every rank computes the whole of it, so each one knows what an optimizer
step counts for over all ranks, and the loss needs no communication for its denominator.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from wdl.data.packing import pack
from wdl.errors import UserError

Samples = NDArray[np.int64]

GROUP = 8
"""Samples of like length that come into a step together: micro-batches of up to this size pad
least. Not the micro-batch size itself, a matter of memory on which no step may depend."""
WINDOW = 96
"""Groups, at least, over which samples are sorted by length: enough that padding stays around one
token in a hundred, few enough that each epoch mixes samples anew."""


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass: positions in the dataset, and the denominator of its optimizer step."""

    samples: Sequence[int]
    denominator: int


@dataclass(frozen=True)
class Plan:
    """Optimizer steps over drawn samples; each epoch shuffles them anew.

    Args:
        drawn: [draws] positions in the dataset, duplicates allowed.
        lengths: [samples] tokens of each sample, for batches of like length.
        counts: [samples] what each sample counts for in the denominator of its step, such as its
            completion tokens.
        batch_size: Samples of an optimizer step over all ranks; packs, if there are packs.
        micro_batch_size: Samples of one forward pass on one rank; 1, if there are packs.
        seed: Seed of the order.
        max_tokens: Tokens of a pack; None for padded samples.
    """

    drawn: NDArray[np.int64]
    lengths: NDArray[np.int64]
    counts: NDArray[np.int64]
    batch_size: int
    micro_batch_size: int
    seed: int
    max_tokens: int | None = None

    @cached_property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        units = len(self.drawn)
        if self.max_tokens is not None:
            units = len(pack(self.lengths[self.drawn], self.max_tokens))
        return -(-units // self.batch_size)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of what decides which samples make up an optimizer step, and of some steps."""
        digest = hashlib.sha256(f"{self.batch_size} {self.seed} {self.max_tokens}".encode())
        for values in (self.drawn, self.lengths, self.counts):
            digest.update(np.ascontiguousarray(values, dtype=np.int64).tobytes())
        for step in islice(self.epoch(0), 10):  # another version may order the same otherwise
            digest.update(repr(sorted(s for part in step for s in part.samples)).encode())
        return digest.hexdigest()

    @property
    def micro_batches(self) -> int:
        """Micro-batches of an optimizer step over all ranks."""
        return self.batch_size // self.micro_batch_size

    def accumulation(self, world_size: int) -> int:
        """Micro-batches that each of ``world_size`` ranks accumulates, see :func:`accumulation`."""
        return accumulation(self.batch_size, self.micro_batch_size, world_size)

    def epoch(self, number: int, start: int = 0) -> Iterator[list[MicroBatch]]:
        """The optimizer steps of epoch ``number`` from step ``start`` on, each its micro-batches.

        Samples of like length come together in groups, or samples that fill a pack, but which
        groups or packs share a step is left to chance, so that a step holds all lengths. The last
        step is filled up with empty micro-batches. Within a step micro-batches are ordered by
        length: ranks, which take turns, have like work.
        """
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(self.drawn)
        if self.max_tokens is None:
            order = self._grouped(order, rng)
            for first in range(start * self.batch_size, len(order), self.batch_size):
                samples = self._longest_first(order[first : first + self.batch_size])
                size = self.micro_batch_size
                yield self._step([samples[f : f + size] for f in range(0, len(samples), size)])
        else:
            packs = pack(self.lengths[order], self.max_tokens)
            turns = rng.permutation(len(packs)).tolist()
            for first in range(start * self.batch_size, len(packs), self.batch_size):
                chosen = [order[packs[turn]] for turn in turns[first : first + self.batch_size]]
                chosen.sort(key=lambda samples: self.lengths[samples].max(), reverse=True)
                yield self._step(chosen)

    def _grouped(self, order: Samples, rng: np.random.Generator) -> Samples:
        """The samples in groups of like length; the groups of a window in any order."""
        size = math.gcd(self.batch_size, GROUP)
        window = self.batch_size * -(-WINDOW * size // self.batch_size)
        grouped = []
        for first in range(0, len(order), window):
            chosen = self._longest_first(order[first : first + window])
            whole, rest = divmod(len(chosen), size)
            # what fills no group of its own has any length, but comes last
            gap = size * rng.integers(whole + 1)
            others = np.delete(chosen, slice(gap, gap + rest))
            grouped += [*rng.permutation(others.reshape(whole, size)), chosen[gap : gap + rest]]
        return np.concatenate(grouped)

    def _longest_first(self, samples: Samples) -> Samples:
        return samples[np.argsort(-self.lengths[samples], kind="stable")]

    def _step(self, parts: list[Samples]) -> list[MicroBatch]:
        denominator = int(sum(self.counts[samples].sum() for samples in parts))
        empty = [MicroBatch([], denominator)] * (self.micro_batches - len(parts))
        return [MicroBatch(samples.tolist(), denominator) for samples in parts] + empty


def accumulation(batch_size: int, micro_batch_size: int, world_size: int) -> int:
    """Micro-batches that each process accumulates for an optimizer step over all of them.

    Raises:
        UserError: The micro-batches of a step cannot be shared out evenly.
    """
    micro_batches = batch_size // micro_batch_size
    if micro_batches % world_size:
        fitting = [
            size
            for size in range(1, micro_batch_size)
            if batch_size % size == 0 and batch_size // size % world_size == 0
        ]
        example = f", for example data.micro_batch_size {fitting[-1]}" if fitting else ""
        raise UserError(
            f"data.batch_size: {batch_size} in micro-batches of {micro_batch_size} make "
            f"{micro_batches} per step, which {world_size} processes cannot share evenly; make "
            f"data.batch_size / data.micro_batch_size a multiple of {world_size}{example}"
        )
    return micro_batches // world_size
