"""The plan of an epoch: optimizer steps of a constant number of micro-batches.

The plan depends on the drawn samples, their lengths, the batch sizes and the seed, never on the
number of ranks. Every rank computes the whole of it, so each one knows how many completion tokens
an optimizer step has over all ranks, and the loss needs no communication for its denominator.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
        batch_size: Samples of an optimizer step over all ranks.
        micro_batch_size: Samples of one forward pass on one rank.
        seed: Seed of the order.
    """

    drawn: NDArray[np.int64]
    lengths: NDArray[np.int64]
    completions: NDArray[np.int64]
    batch_size: int
    micro_batch_size: int
    seed: int

    @property
    def steps(self) -> int:
        """Optimizer steps of an epoch."""
        return -(-len(self.drawn) // self.batch_size)

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
                f"data.batch_size: {self.batch_size} samples in micro-batches of "
                f"{self.micro_batch_size} make {self.micro_batches} per step, which {world_size} "
                f"processes cannot share evenly; make data.batch_size / data.micro_batch_size a "
                f"multiple of {world_size}"
            )
        return self.micro_batches // world_size

    def epoch(self, number: int, start: int = 0) -> Iterator[list[MicroBatch]]:
        """The optimizer steps of epoch ``number`` from step ``start`` on, each its micro-batches.

        Samples of like length share a micro-batch; the last step of an epoch is filled up with
        empty micro-batches.
        """
        order = np.random.default_rng([self.seed, number]).permutation(self.drawn)
        for first in range(start * self.batch_size, len(order), self.batch_size):
            yield self._step(order[first : first + self.batch_size])

    def _step(self, chosen: NDArray[np.int64]) -> list[MicroBatch]:
        chosen = chosen[np.argsort(-self.lengths[chosen], kind="stable")]
        denominator = int(self.completions[chosen].sum())
        size = self.micro_batch_size
        return [
            MicroBatch(chosen[first : first + size].tolist(), denominator)
            for first in range(0, self.batch_size, size)
        ]
