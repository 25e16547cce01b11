"""One optimizer step: the losses of its micro-batches, which must be finite, and its schedule."""

from collections.abc import Iterable
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, distributed, nn

from wdl.branches.whole_weights import all_finite
from wdl.errors import UserError

Schedule = Literal["cosine", "linear", "constant"]


class OptimizerStep:
    """The micro-batches of the step that is under way, on this process.

    Attributes:
        loss: Of the last whole step, over all processes.
    """

    def __init__(self) -> None:
        self.loss = torch.tensor(0.0)
        self._parts: list[tuple[Tensor, Tensor]] = []

    @property
    def is_whole(self) -> bool:
        """Whether no step is under way."""
        return not self._parts

    def add(self, loss: Tensor, sample_ids: Tensor) -> None:
        """Take the loss of a micro-batch, a scalar, and the ``idx`` of its samples."""
        self._parts.append((loss.detach(), sample_ids))

    def finish(self, module: pl.LightningModule) -> None:
        """Before the optimizer steps: sum the losses up, and stop where they are not finite.

        Every process must call this.

        Raises:
            UserError: Names the optimizer step and the samples.
        """
        trainer = module.trainer
        if len(self._parts) < trainer.accumulate_grad_batches:
            return  # DeepSpeed counts the micro-batches itself, and its steps begin with each
        losses = torch.stack([loss for loss, _ in self._parts])
        self.loss = trainer.strategy.reduce(losses.sum(), reduce_op="sum")
        if not torch.isfinite(self.loss):
            faulty = [ids for loss, ids in self._parts if not torch.isfinite(loss)]
            intact = trainer.strategy.reduce_boolean_decision(all_finite(module))
            samples = _on_all_ranks([idx for ids in faulty for idx in ids.tolist()])
            raise UserError(
                f"train/loss is {self.loss.item()} in optimizer step "
                f"{module.global_step + 1}, from the samples with idx {samples}; the weights are "
                f"{'those of the step before' if intact else 'not finite either'}. Look at these "
                "samples, lower the learning rate, or go on from the last checkpoint (--ckpt_path "
                "last) with other settings"
            )
        self._parts.clear()


def with_schedule(
    make_optimizer: OptimizerCallable,
    parameters: Iterable[nn.Parameter],
    schedule: Schedule,
    warmup: float,
    steps: int,
) -> OptimizerLRSchedulerConfig:
    """An optimizer and its learning rate, as Lightning takes them.

    Args:
        make_optimizer: Makes the optimizer of some parameters.
        parameters: Those that require a gradient train.
        schedule: Course of the learning rate after the warm-up.
        warmup: Share of the steps in which it rises from 0.
        steps: Optimizer steps in all.
    """
    from transformers import get_scheduler

    optimizer = make_optimizer([p for p in parameters if p.requires_grad])
    name = "constant_with_warmup" if schedule == "constant" else schedule
    scheduler = get_scheduler(
        name, optimizer, num_warmup_steps=round(warmup * steps), num_training_steps=steps
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _on_all_ranks(values: list[int]) -> list[int]:
    if not distributed.is_initialized():
        return values
    gathered: list[Any] = [[]] * distributed.get_world_size()
    distributed.all_gather_object(gathered, values)
    return [value for part in gathered for value in part]
