"""The plan of an epoch: optimizer steps of a constant number of micro-batches.

The plan depends on the drawn samples, their lengths, the batch sizes and the seed, never on the
number of ranks. Every rank computes the whole of it, so each one knows how many completion tokens
an optimizer step has over all ranks, and the loss needs no communication for its denominator.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from wdl.data.packing import pack
from wdl.errors import UserError


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
        completions: [samples] completion tokens of each sample, for the denominators.
        batch_size: Samples of an optimizer step over all ranks; packs, if there are packs.
        micro_batch_size: Samples of one forward pass on one rank; 1, if there are packs.
        seed: Seed of the order.
        max_tokens: Tokens of a pack; None for padded samples.
    """

    drawn: NDArray[np.int64]
    lengths: NDArray[np.int64]
    completions: NDArray[np.int64]
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

    def digest(self) -> str:
        """SHA-256 of everything that decides which samples make up an optimizer step."""
        digest = hashlib.sha256(f"{self.batch_size} {self.seed} {self.max_tokens}".encode())
        for values in (self.drawn, self.lengths, self.completions):
            digest.update(np.ascontiguousarray(values, dtype=np.int64).tobytes())
        return digest.hexdigest()

    @property
    def micro_batches(self) -> int:
        """Micro-batches of an optimizer step over all ranks."""
        return self.batch_size // self.micro_batch_size

    def accumulation(self, world_size: int) -> int:
        """Micro-batches that each of ``world_size`` ranks accumulates.

        Raises:
            UserError: The micro-batches of a step cannot be shared out evenly.
        """
        if self.micro_batches % world_size:
            raise UserError(
                f"data.batch_size: {self.batch_size} in micro-batches of "
                f"{self.micro_batch_size} make {self.micro_batches} per step, which {world_size} "
                f"processes cannot share evenly; make data.batch_size / data.micro_batch_size a "
                f"multiple of {world_size}"
            )
        return self.micro_batches // world_size

    def epoch(self, number: int, start: int = 0) -> Iterator[list[MicroBatch]]:
        """The optimizer steps of epoch ``number`` from step ``start`` on, each its micro-batches.

        Samples of like length share a micro-batch, or samples that fill a pack together; the last
        step of an epoch is filled up with empty micro-batches.
        """
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(self.drawn)
        if self.max_tokens is not None:
            yield from self._packed(order, rng, start)
            return
        for first in range(start * self.batch_size, len(order), self.batch_size):
            yield self._step(order[first : first + self.batch_size])

    def _packed(
        self, order: NDArray[np.int64], rng: np.random.Generator, start: int
    ) -> Iterator[list[MicroBatch]]:
        assert self.max_tokens is not None
        packs = pack(self.lengths[order], self.max_tokens)
        turns = rng.permutation(len(packs)).tolist()
        for first in range(start * self.batch_size, len(packs), self.batch_size):
            chosen = [order[packs[turn]] for turn in turns[first : first + self.batch_size]]
            denominator = int(sum(self.completions[samples].sum() for samples in chosen))
            filled = [MicroBatch(samples.tolist(), denominator) for samples in chosen]
            yield filled + [MicroBatch([], denominator)] * (self.batch_size - len(filled))

    def _step(self, chosen: NDArray[np.int64]) -> list[MicroBatch]:
        chosen = chosen[np.argsort(-self.lengths[chosen], kind="stable")]
        denominator = int(self.completions[chosen].sum())
        size = self.micro_batch_size
        return [
            MicroBatch(chosen[first : first + size].tolist(), denominator)
            for first in range(0, self.batch_size, size)
        ]
