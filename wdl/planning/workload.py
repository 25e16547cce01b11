"""What a fit goes through: its optimizer steps, their operations, its largest micro-batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wdl.data.plan import Plan
from wdl.data.planned import PlannedDataModule
from wdl.data.weak_driven import WeakDrivenDataModule
from wdl.errors import UserError
from wdl.metrics.flops import Products
from wdl.planning.simulation import MicroBatch
from wdl.training.pair import Pair


@dataclass(frozen=True)
class Workload:
    """An epoch of a fit.

    Attributes:
        steps: Optimizer steps.
        tokens: Without padding.
        flops: That the result needs.
        largest: The largest micro-batch of one process.
        accumulation: Micro-batches of a step on each process.
    """

    steps: int
    tokens: int
    flops: int
    largest: MicroBatch
    accumulation: int


def read_workload(module: Pair, data: PlannedDataModule, processes: int) -> Workload:
    """From the data, as a fit would draw them if all weights were alike.

    Raises:
        UserError: They cannot be read.
    """
    try:
        PlannedDataModule.setup(data, "validate")  # no model scores anything
    except UserError as error:
        said = f"{error.faults[0]}. Or give --samples and --sample_tokens, and no data are read"
        raise UserError(said) from error
    if not len(data.train_samples):
        raise UserError(f"{data.path}: no {data.unit} is left to train on; see data.max_length")
    lengths = np.array(data.train_samples["length"], dtype=np.int64)
    if isinstance(data, WeakDrivenDataModule):
        alike = np.full(len(lengths), 1 / len(lengths))
        drawn = data.selection.draw_epoch(alike, lengths, data.seed)
    else:
        drawn = data.draw(lengths)[0]
    sizes = data.batch_size, data.micro_batch_size, data.seed, data.max_tokens
    plan = Plan(drawn, lengths, data.counts(data.train_samples), *sizes)
    accumulation = plan.accumulation(processes)

    def padded(part: Any) -> int:
        own = lengths[part.samples]
        return int(own.sum() if data.packed else own.max() * len(own)) if len(own) else 0

    parts = (part for step in plan.epoch(0) for part in step)
    largest = data.work(max(parts, key=padded).samples)
    width = largest.lengths.sum() if data.packed else largest.lengths.max() * len(largest.lengths)
    work = data.work(drawn.tolist())
    return Workload(
        plan.steps,
        int(work.lengths.sum()),
        _flops(module, work.lengths, work.counted),
        MicroBatch(int(width), largest.counted),
        accumulation,
    )


def given_workload(
    module: Pair, data: PlannedDataModule, processes: int, samples: int, sample_tokens: int
) -> Workload:
    """Of so many samples alike, all of whose tokens count; micro-batches may be full.

    Raises:
        UserError: They are none, or longer than ``data.max_length``.
    """
    longest = data.corpus.max_length
    if samples < 1 or not 1 < sample_tokens <= longest:
        raise UserError(
            f"--samples {samples} --sample_tokens {sample_tokens}: there must be a sample, of 2 to "
            f"{longest} tokens (data.max_length)"
        )
    units = samples
    if data.max_tokens is not None:
        units = -(-samples // (data.max_tokens // sample_tokens))
    tokens = data.max_tokens or data.micro_batch_size * longest
    return Workload(
        -(-units // data.batch_size),
        samples * sample_tokens,
        _flops(module, [sample_tokens] * samples, samples * sample_tokens),
        MicroBatch(tokens, tokens),
        data.accumulation(processes),
    )


def _flops(module: Pair, lengths: Any, counted: int) -> int:
    return sum(
        products.step(lengths, counted, module.trains(name))
        for name, products in _products(module).items()
    )


def _products(module: Pair) -> Mapping[str, Products]:
    own = module.branches
    return {name: Products.of(own[name if name in own else "strong"]) for name in module.sources}  # type: ignore[arg-type]
