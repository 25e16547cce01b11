"""What ``wdl validate`` shows: the few numbers that are read, by branch, and then the rest."""

import math

import lightning.pytorch as pl
from lightning.pytorch import Callback
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from wdl.metrics.dynamics import BRANCHES, DYNAMICS, LOSSES

FIRST = ("entropy", "margin", "p_target", "saturation")


class ValidationTable(Callback):
    """Prints the metrics of ``wdl validate`` as tables; those of a fit are in TensorBoard."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One process prints."""
        if trainer.state.fn != "validate" or not trainer.is_global_zero:
            return
        found = {name: _shown(value.item()) for name, value in trainer.callback_metrics.items()}
        branches = [name for name in BRANCHES if LOSSES[name] in found]
        first, rest = _table("per completion token", branches), _table("also", branches)
        first.add_row("loss", *(found[LOSSES[name]] for name in branches))
        others = _table("besides", ["value"])
        quantities: dict[str, dict[str, str]] = {name: {} for name in FIRST}
        for name, value in found.items():
            if name.startswith(DYNAMICS):
                quantity, _, of = name.removeprefix(DYNAMICS).partition("/")
                quantities.setdefault(quantity, {})[of] = value
            elif name not in LOSSES.values():
                others.add_row(name, value)
        for quantity, values in quantities.items():
            words = quantity.replace("_", " ")
            if values and set(values) <= set(branches):
                own = (values.get(branch, "") for branch in branches)
                (first if quantity in FIRST else rest).add_row(words, *own)
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
