"""Saves the configuration of a fit in its folder and in its events, and makes it the latest."""

from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger

from wdl.training.run_folder import RunFolder


class SavedConfig(SaveConfigCallback):
    """Writes ``config.yaml``, which repeats the run, and TensorBoard's table of hyperparameters."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Only a fit has a folder of its own."""
        if stage == "fit":
            self.config = self.config.clone()
            self.config.ckpt_path = None  # to repeat the run is not to go on with it
            super().setup(trainer, pl_module, stage)
            assert isinstance(trainer.logger, TensorBoardLogger)
            trainer.logger.hparams = self._settings()  # or Lightning writes an empty hparams.yaml
            for logger in trainer.loggers[1:]:
                logger.log_hyperparams(self._settings())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Not before: a run that cannot go on from its checkpoint is none."""
        self._become_latest(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where nothing was left to train."""
        self._become_latest(trainer)

    def _become_latest(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            RunFolder.of_first(trainer).become_latest()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the hyperparameters with what they led to, for TensorBoard's table of runs."""
        assert isinstance(trainer.logger, TensorBoardLogger)
        metrics = {
            f"final/{name.removeprefix('val/')}": value.item()
            for name, value in trainer.logged_metrics.items()
            if name.startswith("val/") and name.endswith("loss")
        }
        trainer.logger.log_hyperparams(self._settings(), metrics, step=trainer.global_step)
        for logger in trainer.loggers[1:]:
            logger.log_metrics(metrics, step=trainer.global_step)

    def _settings(self) -> dict[str, Any]:
        settings = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        return {
            **{key: settings[key]["init_args"] for key in ("model", "data")},
            "trainer": {key: settings["trainer"][key] for key in ("max_epochs", "precision")},
            "seed": settings["seed_everything"],
        }
