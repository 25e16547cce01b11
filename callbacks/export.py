"""Writes the strong branch as a Hugging Face folder: when a fit ends, and on the way."""

import math
import shutil
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info

from wdl.branches.loading import load_branch
from wdl.branches.lora import add_adapter, is_adapter
from wdl.branches.whole_weights import gather_weights
from wdl.data.planned import PlannedDataModule
from wdl.errors import UserError
from wdl.training.export import DType, export_model
from wdl.training.pair import Pair
from wdl.training.run_folder import RunFolder


class StrongExport(Callback):
    """Exports the strong branch to ``strong/`` in the run's folder when the fit ends.

    Args:
        every_n_steps: Also export after every n-th optimizer step, to ``exports/step=N/``.
        best_k: Also export after the k best validations, to ``exports/best-step=N/``; those that
            are overtaken are removed.
        monitor: What the best are chosen by.
        mode: Whether the smallest or the largest is best.
        dtype: Of the exported weights; by default the one they are trained in.
    """

    def __init__(
        self,
        every_n_steps: int | None = None,
        best_k: int = 0,
        monitor: str = "val/strong_loss",
        mode: Literal["min", "max"] = "min",
        dtype: DType | None = None,
    ) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise UserError(f"export.every_n_steps: {every_n_steps} must be at least 1, or null")
        if best_k < 0:
            raise UserError(f"export.best_k: {best_k} must not be negative")
        self.every_n_steps = every_n_steps
        self.best_k = best_k
        self.monitor = monitor
        self.mode = mode
        self.dtype = dtype
        self._best: dict[str, float] = {}
        self._last_step = 0
        self._finished = False

    def state_dict(self) -> dict[str, Any]:
        """The best exports so far, which a resumed run compares with."""
        return {"best": dict(self._best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What :meth:`state_dict` returned."""
        self._best = dict(state_dict["best"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """A resumed run does not export again what it starts from."""
        self._last_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any
    ) -> None:
        """After every n-th optimizer step."""
        step = trainer.global_step
        if self.every_n_steps and step > self._last_step and step % self.every_n_steps == 0:
            self._export(trainer, pl_module, RunFolder.of(trainer).export(step))
        self._last_step = step

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the k best."""
        if not self.best_k or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(n for n in sorted(trainer.callback_metrics) if n.startswith("val/"))
            raise UserError(f"export.monitor: there is no {self.monitor}; choose from {known}")
        value = trainer.callback_metrics[self.monitor].item()
        if not math.isfinite(value):
            return
        sign = 1 if self.mode == "min" else -1
        worst = max(self._best, key=lambda name: sign * self._best[name], default=None)
        full = len(self._best) >= self.best_k
        if full and worst is not None and sign * value >= sign * self._best[worst]:
            return
        folder = RunFolder.of(trainer).export(trainer.global_step, best=True)
        self._export(trainer, pl_module, folder)
        self._best[str(folder)] = value
        if full and worst is not None:
            del self._best[worst]
            if trainer.is_global_zero:
                shutil.rmtree(worst, ignore_errors=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """While the strategy still holds the model."""
        self._finish(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Where nothing was left to train: the run was killed between its last step and here."""
        if not self._finished:
            self._finish(trainer, pl_module)

    def _finish(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder = RunFolder.of(trainer).strong
        self._export(trainer, pl_module, folder)
        self._finished = True
        rank_zero_info(f"exported the strong branch to {folder}")

    def _export(self, trainer: pl.Trainer, pl_module: pl.LightningModule, folder: Path) -> None:
        assert isinstance(pl_module, Pair)
        export_strong(trainer, pl_module, folder, self.dtype)
        trainer.strategy.barrier("exported")


def export_strong(
    trainer: pl.Trainer, module: Pair, folder: Path, dtype: DType | None = None
) -> None:
    """Write the strong branch as it is now: gather on every process, write on the first.

    Every process must call this. The others do not wait until ``folder`` is there.
    """
    weights, made = gather_weights(module.strong), module.made()
    if not trainer.is_global_zero:
        return
    if module.lora is not None and module.lora.quantised:  # merged into the weights as they were
        model = load_branch(module.base, module.strong.dtype)
        add_adapter(model, module.lora)
        weights = {**model.state_dict(), **{n: w for n, w in weights.items() if is_adapter(n)}}
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, PlannedDataModule)
    vision = data.corpus.vision
    export_model(module.strong, weights, data.tokenizer, folder, made, dtype, module.lora, vision)
