"""What ``wdl validate`` shows: the losses, and the logit dynamics of the branches side by side."""

import math

import lightning.pytorch as pl
from lightning.pytorch import Callback
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from wdl.metrics.dynamics import BRANCHES, curves
from wdl.training.weak_driven import WeakDrivenModule

LOSSES = {"mixed": "val/loss", "strong": "val/strong_loss", "weak": "val/weak_loss"}


class ValidationTable(Callback):
    """Prints the metrics of ``wdl validate`` as a table; those of a fit are in TensorBoard."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One process prints."""
        if trainer.state.fn != "validate" or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, WeakDrivenModule)
        found = {name: value.item() for name, value in trainer.callback_metrics.items()}
        branches = [name for name in BRANCHES if LOSSES[name] in found]
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for column in ("per completion token", *branches):
            table.add_column(column, justify="right" if column in branches else "left")
        table.add_row("loss", *(_shown(found[LOSSES[name]]) for name in branches))
        others = []
        for chart, named in curves(full=True, weak="weak" in branches).items():
            values = {of: found.get(f"val/dynamics/{chart}/{of}") for of in named}
            if None in values.values():
                continue  # model.dynamics.level off
            if set(named) <= set(branches):
                table.add_row(chart, *(_shown(values.get(name)) for name in branches))
            else:
                others += [(f"{chart}, {of}", value) for of, value in values.items()]
        console = Console()
        console.print(table)
        for name, value in others:
            console.print(f"{name.replace('_', ' ')}: {_shown(value)}")


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return "none seen" if math.isnan(value) else f"{value:#.4g}"
