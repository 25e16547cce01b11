r"""Fits that end before all planned steps are taken, as Lightning's EarlyStopping lets them.

    wdl fit --config joint.yaml --trainer.callbacks+=EarlyStopping \
        --trainer.callbacks.monitor=val/strong_loss --trainer.callbacks.patience=2

The step and the reason stand in results.json, there is a checkpoint of the last step, and the
control trains on as many tokens.
"""

import importlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason

from wdl.data.planned import PlannedDataModule


class StayStopped(Callback):
    """Lets a fit that goes on from where EarlyStopping ended it be at its end.

    Lightning would train until the next validation says the same again. With more patience than
    before, or without the callback, the fit does go on.
    """

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Before the callbacks take their states from it."""
        if trainer.state.fn != "fit":
            return
        for one in _of(trainer):
            state = checkpoint["callbacks"].get(one.state_key)
            if state is None or state["stopping_reason"] == EarlyStoppingReason.NOT_STOPPED.value:
                continue
            exhausted = state["stopping_reason"] == EarlyStoppingReason.PATIENCE_EXHAUSTED.value
            if exhausted and state["wait_count"] < one.patience:
                goes_on = EarlyStoppingReason.NOT_STOPPED.value
                state |= {"stopping_reason": goes_on, "stopping_reason_message": None}
            else:
                trainer.should_stop = True
            state["patience"] = one.patience


def early_end(trainer: pl.Trainer) -> dict[str, Any] | None:
    """Where a fit ended before its last planned step, and why; None if it did not.

    Returns:
        ``step``, that of ``planned``, and the reason in words.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, PlannedDataModule)
    if trainer.global_step >= data.planned_steps:
        return None
    said = [one.stopping_reason_message for one in _of(trainer) if one.stopping_reason_message]
    why = " ".join(said).replace(" Signaling Trainer to stop.", "") or "trainer.max_time is over"
    return {"step": trainer.global_step, "planned": data.planned_steps, "reason": why}


def without_early_end(config: Path) -> list[str]:
    """Options with which a run of a saved configuration takes all of its steps.

    It also gets logs of its own, where the configuration names those of one run.
    """
    trainer = yaml.safe_load(config.read_text(encoding="utf-8"))["trainer"]
    options = ["--trainer.max_time", "null"]
    if callbacks := _listed(trainer["callbacks"]):
        kept = [one for one in callbacks if not issubclass(_class_of(one), EarlyStopping)]
        options += ["--trainer.callbacks", json.dumps(kept)]
    if loggers := _listed(trainer["logger"]):
        for one in loggers:
            for name in one["init_args"].keys() & {"version", "id"}:
                one["init_args"][name] = None
        options += ["--trainer.logger", json.dumps(loggers)]
    return options


def _listed(found: Any) -> list[dict[str, Any]]:
    return found if isinstance(found, list) else [found] if isinstance(found, dict) else []


def _class_of(spec: Mapping[str, Any]) -> type:
    module, _, name = spec["class_path"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def _of(trainer: pl.Trainer) -> Iterable[EarlyStopping]:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    return [one for one in callbacks if isinstance(one, EarlyStopping)]
