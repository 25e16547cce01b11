"""Writes the strong branch as a Hugging Face folder when a fit ends."""

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from wdl.data.module import WeakDrivenDataModule
from wdl.export import export_model, gather_weights
from wdl.models.module import WeakDrivenModule


class StrongExport(Callback):
    """Exports the strong branch to ``strong/`` in the run's folder."""

    def __init__(self) -> None:
        self._exported = False

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """While the strategy still holds the model."""
        self._export(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Where nothing was left to train: the run was killed between its last step and here."""
        if not self._exported:
            self._export(trainer, pl_module)

    def _export(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Gather on every rank, write on one."""
        assert isinstance(pl_module, WeakDrivenModule)
        assert trainer.log_dir is not None
        folder = Path(trainer.log_dir) / "strong"
        weights = gather_weights(pl_module.strong)
        if trainer.is_global_zero:
            data = trainer.datamodule  # type: ignore[attr-defined]
            assert isinstance(data, WeakDrivenDataModule)
            export_model(pl_module.strong, weights, data.tokenizer, folder)
        trainer.strategy.barrier("exported")
        self._exported = True
        rank_zero_info(f"exported the strong branch to {folder}")
