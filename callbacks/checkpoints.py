"""Lightning's checkpoints, and always one of the last step."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint


class Checkpoints(ModelCheckpoint):
    """Writes checkpoints as Lightning's ModelCheckpoint does, and one of a fit's last step.

    By default after every epoch, of which the newest stays. ``--ckpt_path last`` goes on from it.
    """

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Where the cadence has missed the last step, but not where a metric chooses."""
        if self.monitor is None and not self._should_skip_saving_checkpoint(trainer):
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))
        super().on_train_end(trainer, pl_module)
