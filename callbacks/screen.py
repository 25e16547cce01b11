"""What is shown beside the bar: of a fit its branches, of ``wdl validate`` tables of the metrics.

First come the few numbers that are read, by branch, and then the rest.
"""

import math

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_info
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from wdl.branches.quantised import quantised_shapes
from wdl.branches.whole_weights import whole_shapes
from wdl.metrics.dynamics import BRANCHES, DYNAMICS, LOSSES
from wdl.metrics.preference import SIDES
from wdl.training.pair import Pair

FIRST = ("entropy", "margin", "p_target", "saturation")


class BranchSummary(Callback):
    """Says of each branch how large it is and how much of it trains."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """When the branches are loaded."""
        assert isinstance(pl_module, Pair)
        for name, branch in pl_module.branches.items():
            weights = dict(branch.named_parameters())
            shapes = whole_shapes(weights) | quantised_shapes(branch)
            sizes = {n: shape.numel() for n, shape in shapes.items()}
            trained = sum(sizes[n] for n, weight in weights.items() if weight.requires_grad)
            total = sum(sizes.values())
            words = {total: "all train", 0: "none trains"}.get(trained, f"{trained:,} train")
            rank_zero_info(f"{name}: {type(branch).__name__}, {total:,} parameters, {words}")


class EndOfProgress(Callback):
    """Takes the progress bar away when training ends; or its last state follows the results."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before anything is exported or graded."""
        if trainer.progress_bar_callback is not None:
            trainer.progress_bar_callback.teardown(trainer, pl_module, "fit")


class ValidationTable(Callback):
    """Prints the metrics of ``wdl validate`` as tables; those of a fit are in TensorBoard."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One process prints."""
        if trainer.state.fn != "validate" or not trainer.is_global_zero:
            return
        found = {name: _shown(value.item()) for name, value in trainer.callback_metrics.items()}
        paired = LOSSES["strong"] in found
        branches = [name for name in BRANCHES if paired and LOSSES[name] in found]
        first, rest = _table("per completion token", branches), _table("also", branches)
        sides, others = _table("mean of all pairs", list(SIDES)), _table("besides", ["value"])
        if paired:
            first.add_row("loss", *(found.pop(LOSSES[name]) for name in branches))
        quantities: dict[str, dict[str, str]] = {f"{DYNAMICS}{name}": {} for name in FIRST}
        for name, value in found.items():
            quantity, _, of = name.rpartition("/")
            quantities.setdefault(quantity, {})[of] = value
        for quantity, values in quantities.items():
            short = quantity.removeprefix(DYNAMICS).removeprefix("val/")
            words = short.replace("_", " ")
            for columns, table in ((branches, first if short in FIRST else rest), (SIDES, sides)):
                if columns and values.keys() >= set(columns):
                    table.add_row(words, *map(values.pop, columns))
            for of, value in values.items():
                known = {"": of, "val": f"val/{of}"}
                others.add_row(known.get(quantity, f"{words}, {of.replace('_', ' ')}"), value)
        console = Console(width=80)  # in a narrower terminal a row is broken, and no number cut
        for table in (first, rest, sides, others):
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
