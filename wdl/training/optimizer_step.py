"""One optimizer step: its losses and gradients, which must be finite, and its schedule."""

import math
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from wdl.branches.whole_weights import all_finite
from wdl.errors import UserError

Schedule = Literal["cosine", "linear", "constant"]


class _Part(NamedTuple):
    """A micro-batch: its loss, the ``idx`` of its samples, the norm of each weight's gradient."""

    loss: Tensor
    sample_ids: Tensor
    norms: list[Tensor]

    @property
    def norm(self) -> Tensor:
        """Of the gradient, on the loss's device; 0 if there is none."""
        return torch.stack([torch.zeros_like(self.loss), *self.norms]).norm()


class OptimizerStep:
    """The micro-batches of the step that is under way, on this process.

    Attributes:
        loss: Of the last whole step, over all processes.
    """

    def __init__(self) -> None:
        self.loss = torch.tensor(0.0)
        self._parts: list[_Part] = []

    @property
    def is_whole(self) -> bool:
        """Whether no step is under way."""
        return not self._parts

    def add(self, loss: Tensor, sample_ids: Tensor) -> None:
        """Take the loss of a micro-batch, a scalar, and the ``idx`` of its samples."""
        self._parts.append(_Part(loss.detach(), sample_ids, []))

    def watch(self, module: pl.LightningModule) -> None:
        """Look at each gradient as it comes, before a strategy divides or clips it."""
        if str(module.trainer.precision).startswith("16"):
            return  # loss scaling finds out what is too large for float16, and repeats the step
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_hook(self._see)

    def _see(self, gradient: Tensor) -> None:
        part = self._parts[-1]
        # a norm that clipping, or squares that Adam, could not compute is as bad as no number
        part.norms.append(torch.linalg.vector_norm(gradient.detach(), dtype=part.loss.dtype))

    def finish(self, module: pl.LightningModule) -> None:
        """Before the optimizer steps: sum the losses up, and stop where something is not finite.

        Every process must call this.

        Raises:
            UserError: Names the optimizer step and the samples.
        """
        trainer = module.trainer
        if len(self._parts) < trainer.accumulate_grad_batches:
            return  # DeepSpeed counts the micro-batches itself, and its steps begin with each
        losses, norms = (
            torch.stack(each) for each in zip(*((p.loss, p.norm) for p in self._parts), strict=True)
        )
        sums = torch.stack([losses.sum(), norms.sum()])
        self.loss, norm = trainer.strategy.reduce(sums, reduce_op="sum")
        if not torch.isfinite(self.loss + norm):
            faulty = [p.sample_ids for p in self._parts if not torch.isfinite(p.loss + p.norm)]
            intact = trainer.strategy.reduce_boolean_decision(all_finite(module))
            samples = _on_all_ranks([idx for ids in faulty for idx in ids.tolist()])
            found = {"train/loss": self.loss.item(), "the norm of the gradient": norm.item()}
            what = next(name for name, value in found.items() if not math.isfinite(value))
            raise UserError(
                f"{what} is {found[what]} in optimizer step "
                f"{module.global_step + 1}, from the samples with idx {samples}; the weights are "
                f"{'those of the step before' if intact else 'not finite either'}. Look at these "
                "samples, lower the learning rate, or go on from the last checkpoint (--ckpt_path "
                "last) with other settings"
            )
        self._parts.clear()


def with_schedule(
    optimizer: OptimizerCallable,
    parameters: Iterable[nn.Parameter],
    schedule: Schedule,
    warmup: float,
    steps: int,
) -> OptimizerLRSchedulerConfig:
    """An optimizer and its learning rate, as Lightning takes them.

    Args:
        optimizer: Makes the optimizer of some parameters.
        parameters: Those that require a gradient train.
        schedule: Course of the learning rate after the warm-up.
        warmup: Share of the steps in which it rises from 0.
        steps: Optimizer steps in all.
    """
    from transformers import get_scheduler

    made = make_optimizer(optimizer, [p for p in parameters if p.requires_grad])
    name = "constant_with_warmup" if schedule == "constant" else schedule
    scheduler = get_scheduler(
        name, made, num_warmup_steps=round(warmup * steps), num_training_steps=steps
    )
    return {"optimizer": made, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def make_optimizer(optimizer: OptimizerCallable, parameters: list[nn.Parameter]) -> Optimizer:
    """The optimizer of some parameters.

    Raises:
        UserError: It refuses its settings, or these parameters.
    """
    try:
        return optimizer(parameters)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"model.optimizer: {error}") from error


def _on_all_ranks(values: list[int]) -> list[int]:
    if not distributed.is_initialized():
        return values
    gathered: list[Any] = [[]] * distributed.get_world_size()
    distributed.all_gather_object(gathered, values)
    return [value for part in gathered for value in part]
