"""What ``wdl validate`` shows: the few numbers that are read, by branch, and then the rest."""

import math

import lightning.pytorch as pl
from lightning.pytorch import Callback
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from wdl.metrics.dynamics import BRANCHES, LOSSES

FIRST = ("loss", "entropy", "margin", "p_target", "saturation")


class ValidationTable(Callback):
    """Prints the metrics of ``wdl validate`` as tables; those of a fit are in TensorBoard."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One process prints."""
        if trainer.state.fn != "validate" or not trainer.is_global_zero:
            return
        shorter = {name: f"loss/{branch}" for branch, name in LOSSES.items()}
        found: dict[str, dict[str, str]] = {}
        for name, value in trainer.callback_metrics.items():
            short = shorter.get(name, name.removeprefix("val/").removeprefix("dynamics/"))
            quantity, _, of = short.rpartition("/")
            found.setdefault(quantity, {})[of] = _shown(value.item())
        branches = [of for of in BRANCHES if any(of in values for values in found.values())]
        first, rest = _table("per completion token", branches), _table("also", branches)
        others = _table("other", ["value"])
        for quantity in sorted(found, key=(*FIRST, *found).index):
            values = found[quantity]
            if set(values) <= set(branches):
                row = (quantity.replace("_", " "), *(values.get(of, "") for of in branches))
                (first if quantity in FIRST else rest).add_row(*row)
            else:
                for of, shown in values.items():
                    label = f"{quantity}, {of}" if quantity else of
                    others.add_row(label.replace("_", " "), shown)
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
