"""What a fit shows of its model and its progress, in place of what Lightning would."""

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.utilities import rank_zero_info

from wdl.training.pair import Pair


class BranchSummary(ModelSummary):
    """One line for each branch, where Lightning has a row for each metric, and FLOPs of zero."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """When all weights are there, and what trains is known."""
        assert isinstance(pl_module, Pair)
        for name, branch in pl_module.branches.items():
            sizes = {True: 0, False: 0}
            for weight in branch.parameters():
                # of a weight that ZeRO has shared out, this process holds a part or nothing
                sizes[weight.requires_grad] += getattr(weight, "ds_numel", weight.numel())
            trains = f"{sizes[True]:,} train" if all(sizes.values()) else "all train"
            rank_zero_info(
                f"{name}: {type(branch).__name__}, {sum(sizes.values()):,} parameters, "
                f"{trains if sizes[True] else 'none trains'}"
            )


class EndOfProgress(Callback):
    """Takes the progress bar away when training ends; or its last state follows the results."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Before anything is exported or graded."""
        if trainer.progress_bar_callback is not None:
            trainer.progress_bar_callback.teardown(trainer, pl_module, "fit")
