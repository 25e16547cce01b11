"""One rank's micro-batches, read and put together as they are needed.

Streams, because Lightning wraps and reshuffles the samplers of other data sets under several
processes (and under DeepSpeed on one).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset

from wdl.data.batches import Batch
from wdl.data.corpus import rows_at
from wdl.data.plan import MicroBatch, Plan
from wdl.system.types import Dataset

Collate = Callable[[list[Any], int], Batch]
"""Makes a batch of the rows of a micro-batch and of its denominator."""


class Work(NamedTuple):
    """What training on some samples amounts to.

    Attributes:
        lengths: [sequences] tokens of each that runs through the model, without padding.
        counted: How many of all these the output head reads: completion tokens.
    """

    lengths: NDArray[np.int64]
    counted: int


def work_of(sequences: Dataset, positions: Sequence[int]) -> Work:
    """That of some sequences."""
    rows = rows_at(sequences.select_columns(["length", "prompt_length"]), positions)
    lengths = np.array([row["length"] for row in rows], dtype=np.int64)
    return Work(lengths, int(lengths.sum()) - sum(row["prompt_length"] for row in rows))


class MicroBatches(Protocol):
    """A known number of micro-batches, which can be gone through again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[MicroBatch]: ...


class RankShare:
    """One rank's micro-batches of the current epoch.

    The position is the trainer's count of optimizer steps alone, which every checkpoint holds: a
    resumed run continues in the middle of an epoch without a state of its own to lose.

    Args:
        plan: The plan of an epoch.
        rank: This process.
        world_size: Number of processes.
        global_step: Returns the optimizer steps done so far, through all epochs.
    """

    def __init__(
        self, plan: Plan, rank: int, world_size: int, global_step: Callable[[], int]
    ) -> None:
        self.plan = plan
        self.rank = rank
        self.world_size = world_size
        self.global_step = global_step

    def __len__(self) -> int:
        return self.plan.steps * self.plan.accumulation(self.world_size)

    def __iter__(self) -> Iterator[MicroBatch]:
        epoch, start = divmod(self.global_step(), self.plan.steps)
        for step in self.plan.epoch(epoch, start):
            yield from step[self.rank :: self.world_size]


class BatchStream(IterableDataset):
    """Reads the samples of each micro-batch and puts them together to a ``Batch``."""

    def __init__(self, samples: Dataset, micro_batches: MicroBatches, collate: Collate) -> None:
        self.samples = samples
        self.micro_batches = micro_batches
        self.collate = collate

    def __len__(self) -> int:
        return len(self.micro_batches)

    def __iter__(self) -> Iterator[Batch]:
        for micro_batch in self.micro_batches:
            rows = rows_at(self.samples, micro_batch.samples)
            yield self.collate(rows, micro_batch.denominator)


def batch_loader(samples: Dataset, micro_batches: MicroBatches, collate: Collate) -> DataLoader:
    """A loader of whole micro-batches, in order."""
    stream = BatchStream(samples, micro_batches, collate)
    return DataLoader(stream, batch_size=None, pin_memory=torch.cuda.is_available())
