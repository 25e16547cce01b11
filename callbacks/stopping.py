"""Ends a fit that is told to stop, with a checkpoint of the step it is in.

SIGTERM (what schedulers send before they take a machine back), SIGUSR1 (their earlier warning) and
the first Ctrl-C let the current optimizer step finish, save, and exit with 128 + the signal's
number. The second Ctrl-C ends the run at once. Before training begins there is nothing to save, and
the first signal ends it.
"""

import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities import rank_zero_info

from wdl.training.run_folder import RunFolder

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopOnSignal(Callback):
    """Saves a checkpoint and exits when the process is told to stop."""

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._training = False
        self._last_step = 0
        self._ears: tuple[socket.socket, socket.socket] | None = None

    @property
    def heard(self) -> bool:
        """Whether this process has been told to stop."""
        return self._received is not None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """From here on signals are heard, but by a dry run, which saves nothing."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if self._ears is None:
            # a handler has to wait for the main thread, which may wait for another process
            self._ears = socket.socketpair()
            self._ears[1].setblocking(False)
            signal.set_wakeup_fd(self._ears[1].fileno())
            threading.Thread(target=self._listen, daemon=True).start()
        _take_signals()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals back from the trainer, whose handlers communicate and can hang."""
        if self._ears is not None:
            _take_signals()
        self._last_step = trainer.global_step
        self._training = True

    def _listen(self) -> None:
        assert self._ears is not None
        while numbers := self._ears[0].recv(1):
            if numbers[0] in SIGNALS:
                self._hear(signal.Signals(numbers[0]))

    def _hear(self, number: signal.Signals) -> None:
        again = self._received is not None and number == signal.SIGINT
        if not self._training or again:
            os._exit(128 + number)  # past everything that could wait for another process
        if self._received is None and os.environ.get("LOCAL_RANK", "0") == "0":
            saving = f"\nwdl: {number.name}: saving after this step; Ctrl-C ends at once"
            with suppress(OSError):  # the screen may be gone
                print(saving, file=sys.stderr, flush=True)
        self._received = number

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any
    ) -> None:
        """After each optimizer step all processes agree whether to stop."""
        if trainer.global_step != self._last_step:
            self._last_step = trainer.global_step
            self._stop_if_told(trainer)

    def _stop_if_told(self, trainer: pl.Trainer) -> None:
        if not trainer.strategy.reduce_boolean_decision(self.heard, all=False):
            return
        name = f"stopped-epoch={trainer.current_epoch}-step={trainer.global_step}.ckpt"
        checkpoint = RunFolder.of(trainer).checkpoints / name
        trainer.save_checkpoint(checkpoint)
        rank_zero_info(f"stopped; saved {checkpoint}: go on with --ckpt_path last")
        number = self._received or signal.SIGTERM  # heard by another process
        raise SystemExit(0 if _is_child(trainer) else 128 + number)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """What follows can be repeated from a checkpoint."""
        self._stop_if_told(trainer)
        self._training = False


def _take_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)  # the thread hears it


def _is_child(trainer: pl.Trainer) -> bool:
    """Whether this process was started by the first one, which kills all if a child fails."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return isinstance(environment, LightningEnvironment) and trainer.local_rank > 0
