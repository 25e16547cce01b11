"""How fast a fit is, in every log: tokens/s, model FLOP utilisation, memory, time to the end.

All of it is taken where an optimizer step ends and its loss is read anyway, so no device is made to
wait. What the steps amount to, over all processes, is read from the plan and not from batches.
"""

import re
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from wdl.data.loading import Work
from wdl.data.planned import PlannedDataModule
from wdl.metrics.flops import Products, peak_flops
from wdl.training.pair import Pair

_PEAK_OF_PROCESS = Path("/proc/self/status")


class Throughput(Callback):
    """Logs ``throughput/NAME`` at the trainer's cadence (``log_every_n_steps``).

    - ``tokens_per_s``: tokens that are no padding, of all processes.
    - ``mfu``: model FLOP utilisation, of the cards' bfloat16 peaks; not where a card is not known.
    - ``peak_memory_gb``: of the process that uses most; of its GPU's memory, else of the host's.
    - ``seconds_left``: to the end of training, at the pace of this start.

    Time spent on validation counts for the last alone. What happened before a resume counts for
    nothing. Where no terminal is, each interval is a line.
    """

    def __init__(self) -> None:
        self.totals: dict[str, float] = {}
        self._step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock starts here."""
        assert isinstance(pl_module, Pair)
        branches = {
            n: pl_module.branches[n if n in pl_module.branches else "strong"]
            for n in pl_module.sources
        }
        self._products = {n: Products.of(b) for n, b in branches.items()}  # type: ignore[arg-type]
        device = trainer.strategy.root_device
        peak = None
        if device.type == "cuda":
            peak = peak_flops(torch.cuda.get_device_name(device))
            torch.cuda.reset_peak_memory_stats(device)
        self._peak = None if peak is None else peak * trainer.world_size
        self._step = self._first = trainer.global_step
        self._steps = _steps(trainer, self._first)
        self._started = time.perf_counter()
        self._run, self._interval = _Span(self._started), _Span(self._started)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock stands still."""
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The clock goes on."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            for span in (self._run, self._interval):
                span.started += time.perf_counter() - self._paused

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any
    ) -> None:
        """After each optimizer step; every so many, log."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        assert isinstance(pl_module, Pair)
        work = next(self._steps)
        flops = sum(
            products.step(work.lengths, work.counted, pl_module.trains(name))
            for name, products in self._products.items()
        )
        for span in (self._run, self._interval):
            span.add(int(work.lengths.sum()), flops)
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        last = self._step >= trainer.estimated_stepping_batches
        if every and (self._step % every == 0 or last):
            self._log(trainer, pl_module)
            self._interval = _Span(time.perf_counter())

    def _log(self, trainer: pl.Trainer, module: Pair) -> None:
        peak_memory = _peak_memory(trainer)
        memory = {} if peak_memory is None else {"peak_memory_gb": peak_memory}
        seconds = time.perf_counter() - self._started
        to_do = int(trainer.estimated_stepping_batches) - self._step
        left = seconds / (self._step - self._first) * to_do
        self.totals = {**self._run.rates(self._peak), **memory, "seconds": seconds}
        shown = {**self._interval.rates(self._peak), **memory}
        scalars = {f"throughput/{n}": v for n, v in {**shown, "seconds_left": left}.items()}
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step=self._step - 1)
        for name, value in {**shown, "hours_left": left / 3600}.items():
            module.log(name, value, prog_bar=True, logger=False, rank_zero_only=True)
        if not sys.stdout.isatty():
            words = [
                f"loss {module.step_loss.item():.4g}",
                f"{shown['tokens_per_s']:,.0f} tokens/s",
            ]
            if "mfu" in shown:
                words.append(f"MFU {shown['mfu']:.1%}")
            if memory:
                words.append(f"peak {memory['peak_memory_gb']:.1f} GB")
            words.append(f"{timedelta(seconds=round(left))} left")
            total = trainer.estimated_stepping_batches
            rank_zero_info(f"step {self._step} of {total:.0f}: {', '.join(words)}")


class _Span:
    """Some time and what was done in it.

    Attributes:
        started: By ``time.perf_counter``; later, if the clock stood still for a while.
    """

    def __init__(self, started: float) -> None:
        self.started = started
        self.tokens = self.flops = 0

    def add(self, tokens: int, flops: int) -> None:
        """What an optimizer step of all processes amounts to."""
        self.tokens += tokens
        self.flops += flops

    def rates(self, peak: float | None) -> dict[str, float]:
        """Until now, of cards that do ``peak`` FLOPs per second together."""
        seconds = time.perf_counter() - self.started
        utilisation = {} if peak is None else {"mfu": self.flops / seconds / peak}
        return {"tokens_per_s": self.tokens / seconds, **utilisation}


def _steps(trainer: pl.Trainer, done: int) -> Iterator[Work]:
    """What each optimizer step amounts to, when so many are done."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, PlannedDataModule) and data.plan is not None
    epoch, start = divmod(done, data.plan.steps)
    while True:
        for step in data.plan.epoch(epoch, start):
            yield data.work([sample for part in step for sample in part.samples])
        epoch, start = epoch + 1, 0


def _peak_memory(trainer: pl.Trainer) -> float | None:
    """GB, of the process that has the most; None where a system does not tell."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        peak = float(torch.cuda.max_memory_allocated(device))
    elif _PEAK_OF_PROCESS.exists():
        found = re.search(r"VmHWM:\s*(\d+) kB", _PEAK_OF_PROCESS.read_text())
        peak = 1024 * float(found[1]) if found else 0.0
    else:
        return None
    value = torch.tensor(peak, dtype=torch.float64, device=device)
    return trainer.strategy.reduce(value, reduce_op="max").item() / 1e9
