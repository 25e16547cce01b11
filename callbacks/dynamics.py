"""Dynamics in TensorBoard: a chart of each quantity, with a curve of each branch or side."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyExperiment
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from wdl.metrics.dynamics import BRANCHES, EDGES, LOSSES
from wdl.metrics.preference import SIDES
from wdl.training.pair import Pair


class BranchLogger(TensorBoardLogger):
    """Writes what is of one branch, or side of a pair, to a run of its own, under a shared tag.

    TensorBoard draws one chart of a tag, with a colour for each run: ``dynamics/margin/weak`` is
    the tag ``dynamics/margin`` in the run's folder ``dynamics/weak``. The validation losses keep
    their names, and share ``val/losses`` besides.

    Args:
        save_dir: Folder of all runs.
        name: Of the run, whose starts are its folders ``version_N``.
    """

    def __init__(self, save_dir: str, name: str) -> None:
        super().__init__(save_dir, name, default_hp_metric=False)
        self._branches: dict[str, SummaryWriter] = {}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Each metric where it belongs."""
        losses = {f"val/losses/{of}": metrics[n] for of, n in LOSSES.items() if n in metrics}
        if LOSSES["strong"] not in metrics:  # of a method that has other losses
            losses = {}
        for name, value in {**metrics, **losses}.items():
            writer, tag = self._place(name)
            writer.add_scalar(tag, value, step)

    @rank_zero_only
    def log_histogram(self, name: str, counts: Tensor, step: int) -> None:
        """Counts [len(EDGES) + 1] in the bins of EDGES, within the bins that hold any."""
        limits = torch.cat((EDGES, torch.tensor([sys.float_info.max], dtype=torch.float64)))
        first, last = counts.nonzero()[[0, -1], 0].tolist()
        kept, upper = counts[first : last + 1], limits[first : last + 1]
        ends = limits[max(0, first - 1)].item(), upper[-1].item()
        number, total, squares = ((kept * upper**power).sum().item() for power in (0, 1, 2))
        writer, tag = self._place(name)
        writer.add_histogram_raw(
            *(tag, *ends, number, total, squares), upper.tolist(), kept.tolist(), step
        )

    @rank_zero_only
    def save(self) -> None:
        """Write out what is held back."""
        super().save()
        for writer in self._branches.values():
            writer.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Close all files."""
        super().finalize(status)
        for writer in self._branches.values():
            writer.close()

    def _place(self, name: str) -> tuple[SummaryWriter, str]:
        """Writer of a metric, and its tag there."""
        tag, _, branch = name.rpartition("/")
        if branch not in (*BRANCHES, *SIDES):
            return self.experiment, name
        if branch not in self._branches:
            self._branches[branch] = SummaryWriter(Path(self.log_dir, "dynamics", branch))
        return self._branches[branch], tag


class NoEvents(BranchLogger):
    """The run's folder with its hparams.yaml, where nobody wants events for TensorBoard."""

    @property
    def experiment(self) -> Any:
        """What takes anything and keeps nothing."""
        return DummyExperiment()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Nowhere."""

    def log_histogram(self, name: str, counts: Tensor, step: int) -> None:
        """Nowhere."""

    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """For hparams.yaml alone."""
        self.hparams = params


class DynamicsHistograms(Callback):
    """Writes the values' histograms at each validation; curves are logged by the module."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before the module forgets what it has seen; every process takes part in the sum."""
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, Pair)
        for name, counts in pl_module.histograms().items():
            if counts.any() and isinstance(trainer.logger, BranchLogger):
                step = trainer.global_step - 1
                trainer.logger.log_histogram(f"histograms/{name}", counts.cpu(), step)
