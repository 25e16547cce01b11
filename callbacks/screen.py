"""What ``wdl validate`` shows: the few numbers that are read, by branch, and then the rest."""

import math

import lightning.pytorch as pl
from lightning.pytorch import Callback
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from wdl.metrics.dynamics import BRANCHES, LOSSES, curves
from wdl.training.weak_driven import WeakDrivenModule

FIRST = ("entropy", "margin", "p_target", "saturation")


class ValidationTable(Callback):
    """Prints the metrics of ``wdl validate`` as tables; those of a fit are in TensorBoard."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One process prints."""
        if trainer.state.fn != "validate" or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, WeakDrivenModule)
        found = {name: value.item() for name, value in trainer.callback_metrics.items()}
        branches = [name for name in BRANCHES if LOSSES[name] in found]
        first, rest = _table("per completion token", branches), _table("also", branches)
        first.add_row("loss", *(_shown(found[LOSSES[name]]) for name in branches))
        others = _table("between branches", ["value"])
        named = curves(full=True, weak="weak" in branches)
        off = pl_module.dynamics.level == "off"
        for quantity in () if off else dict.fromkeys((*FIRST, *named)):
            values = {of: _shown(found[f"val/dynamics/{quantity}/{of}"]) for of in named[quantity]}
            words = quantity.replace("_", " ")
            if set(values) <= set(branches):
                (first if quantity in FIRST else rest).add_row(words, *values.values())
            else:
                for of, value in values.items():
                    others.add_row(f"{words}, {of.replace('_', ' ')}", value)
        console = Console(width=80)  # in a narrower terminal a row is broken, and no number cut
        for table in (first, rest, others):
            if table.row_count:
                console.print(table)


def _table(title: str, columns: list[str]) -> Table:
    """Wide enough in every column that several stand in line."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(title, min_width=30)
    for column in columns:
        table.add_column(column, justify="right", min_width=10)
    return table


def _shown(value: float) -> str:
    return "none seen" if math.isnan(value) else f"{value:#.4g}"
