"""Lightning's checkpoints, and always one of the last step."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint


class Checkpoints(ModelCheckpoint):
    """Writes checkpoints as Lightning's ModelCheckpoint does, and one of a fit's last step.

    By default after every epoch, of which the newest stays. ``--ckpt_path last`` goes on from it.
    """

    _knows_end = False

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any
    ) -> None:
        """Where the cadence misses the last step, but not where a metric chooses."""
        super().on_train_batch_end(trainer, pl_module, *batch)
        if self.monitor is not None or self._should_skip_saving_checkpoint(trainer):
            return
        to_come = self.every_n_epochs == 1 and self._should_save_on_train_epoch_end(trainer)
        if trainer.global_step >= trainer.estimated_stepping_batches and not to_come:
            self._save_now(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Where something ends the fit early, also within an epoch; or the last one knows not."""
        super().on_train_epoch_end(trainer, pl_module)
        known = self._last_global_step_saved == trainer.global_step and self._knows_end
        if trainer.should_stop and self.monitor is None and not known:
            self._save_now(trainer)

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        self._knows_end = trainer.should_stop

    def _save_now(self, trainer: pl.Trainer) -> None:
        candidates = self._monitor_candidates(trainer)
        self._save_topk_checkpoint(trainer, candidates)
        self._save_last_checkpoint(trainer, candidates)
