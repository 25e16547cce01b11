"""The logit dynamics in TensorBoard: curves that belong together in one chart, and histograms."""

import sys

import lightning.pytorch as pl
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from wdl.metrics.dynamics import EDGES, curves
from wdl.training.weak_driven import WeakDrivenModule


class DynamicsCharts(Callback):
    """Writes the layout of the custom scalars when a fit starts, histograms at each validation."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One process writes."""
        assert isinstance(pl_module, WeakDrivenModule)
        if pl_module.dynamics.level == "off":
            return
        if trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
            trained = curves(pl_module.train_dynamics.full, "weak" in pl_module.sources)
            validated = curves(True, "weak" in pl_module.sources)
            trainer.logger.experiment.add_custom_scalars(
                {
                    "training": _charts("dynamics", trained),
                    "validation": _charts("val/dynamics", validated),
                }
            )

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before the module forgets what it has seen; every process takes part in the sum."""
        assert isinstance(pl_module, WeakDrivenModule)
        if pl_module.dynamics.level == "off":
            return
        histograms = pl_module.val_dynamics.compute().histograms
        if trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
            for name, counts in histograms.items():
                if counts.any():
                    writer = trainer.logger.experiment
                    _write(writer, f"histograms/{name}", counts.cpu(), trainer.global_step - 1)


def _charts(prefix: str, named: dict[str, tuple[str, ...]]) -> dict[str, list]:
    return {
        chart: ["Multiline", [f"{prefix}/{chart}/{curve}$" for curve in named_curves]]
        for chart, named_curves in named.items()
    }


def _write(writer: SummaryWriter, tag: str, counts: Tensor, step: int) -> None:
    """Counts in the bins of EDGES, all within the bins that hold any."""
    limits = torch.cat((EDGES, torch.tensor([sys.float_info.max], dtype=torch.float64)))
    filled = counts.nonzero().squeeze(1)
    first, last = int(filled[0]), int(filled[-1])
    lowest = limits[max(0, first - 1)].item()
    kept, upper = counts[first : last + 1], limits[first : last + 1]
    writer.add_histogram_raw(
        tag,
        min=lowest,
        max=upper[-1].item(),
        num=int(kept.sum()),
        sum=(kept * upper).sum().item(),
        sum_squares=(kept * upper.square()).sum().item(),
        bucket_limits=upper.tolist(),
        bucket_counts=kept.tolist(),
        global_step=step,
    )
