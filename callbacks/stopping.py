"""Ends a fit that is told to stop, with a checkpoint of the step it is in.

SIGTERM (what schedulers send before they take a machine back), SIGUSR1 (their earlier warning) and
the first Ctrl-C let the current optimizer step finish, save, and exit with 128 + the signal's
number. The second Ctrl-C ends the run at once. Before training begins there is nothing to save, and
the first signal ends it.
"""

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities import rank_zero_info

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopOnSignal(Callback):
    """Saves a checkpoint and exits when the process is told to stop."""

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._training = False
        self._last_step = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """From here on signals are heard."""
        self._listen()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back from the trainer, whose handlers communicate and can hang."""
        self._listen()
        self._training = True
        self._last_step = trainer.global_step

    def _listen(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        again = self._received is not None and number == signal.SIGINT
        if not self._training or again:
            os._exit(128 + number)  # past everything that could wait for another process
        if self._received is None and os.environ.get("LOCAL_RANK", "0") == "0":
            name = signal.Signals(number).name
            print(f"\nwdl: {name}: saving after this step; Ctrl-C ends at once", file=sys.stderr)
        self._received = signal.Signals(number)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any
    ) -> None:
        """After each optimizer step all processes agree whether to stop."""
        if trainer.global_step == self._last_step:
            return
        self._last_step = trainer.global_step
        heard = trainer.strategy.reduce_boolean_decision(self._received is not None, all=False)
        if heard:
            self._stop(trainer)

    def _stop(self, trainer: pl.Trainer) -> None:
        assert trainer.log_dir is not None
        name = f"stopped-epoch={trainer.current_epoch}-step={trainer.global_step}.ckpt"
        checkpoint = Path(trainer.log_dir) / "checkpoints" / name
        trainer.save_checkpoint(checkpoint)
        rank_zero_info(f"stopped; saved {checkpoint}: go on with --ckpt_path last")
        number = self._received or signal.SIGTERM  # heard by another process
        raise SystemExit(0 if _is_child(trainer) else 128 + number)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What follows can be repeated from the last checkpoint."""
        self._training = False


def _is_child(trainer: pl.Trainer) -> bool:
    """Whether this process was started by the first one, which kills all if a child fails."""
    environment = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
    return isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
