"""Options of Lightning's trainer: each does what a user means by it, or is refused by its name."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
)
from lightning.pytorch.strategies import (
    DDPStrategy,
    ParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)

from wdl.errors import UserError
from wdl.training.deepspeed import DeepSpeed

_REFUSED: dict[str, tuple[Any, str]] = {
    "accumulate_grad_batches": (
        1,
        "it follows from data.batch_size, data.micro_batch_size and the number of processes; leave "
        "it out",
    ),
    "barebones": (
        False,
        "without logs a run has no folder; look where time goes with trainer.profiler",
    ),
    "default_root_dir": (None, "a run's folder is RUNS/NAME; set runs and name"),
    "limit_train_batches": (
        None,
        "the optimizer steps of an epoch are planned as a whole; set trainer.max_steps, or "
        "give fewer rows (of weak-driven data, data.selection.multiplier)",
    ),
    "overfit_batches": (
        0,
        "the optimizer steps of an epoch are planned as a whole; give a small data.path and more "
        "trainer.max_epochs",
    ),
}
"""Options that no run can take: what leaves them out, and what to do instead."""
_PLANNING = GradientAccumulationScheduler, BatchSizeFinder, LearningRateFinder


def check_options(options: Mapping[str, Any], fitting: bool) -> None:
    """Refuse options that would do nothing, or something else than a user means.

    Args:
        options: The trainer's, before it is made.
        fitting: Whether it trains.

    Raises:
        UserError: One line for each.
    """
    faults = [f"trainer.{k}: {do}" for k, (no, do) in _REFUSED.items() if options[k] != no]
    if fitting and options["logger"] is False:
        faults.append(
            "trainer.logger: false is no logger; give loggers that log besides TensorBoard's, or "
            "set tensorboard to false for a run without its events"
        )
    if faults:
        raise UserError(*faults)


def check_trainer(trainer: Trainer, fitting: bool, validates: bool) -> None:
    """Refuse what a trainer cannot do rightly with a pair, before anything is loaded.

    Args:
        trainer: As it was made.
        fitting: Whether it trains.
        validates: Whether some of the data are kept for validation.

    Raises:
        UserError: Names the option.
    """
    strategy, precision = trainer.strategy, str(trainer.precision)
    if not isinstance(strategy, SingleDeviceStrategy | DDPStrategy) or (
        hasattr(strategy, "zero_stage_3") and not isinstance(strategy, DeepSpeed)
    ):
        raise UserError(
            f"trainer.strategy: {type(strategy).__name__} divides or keeps weights in a way that "
            "is not known here; use wdl.training.deepspeed.DeepSpeed, ddp or auto"
        )
    if precision.startswith("transformer-engine"):
        raise UserError(f"trainer.precision: {precision} is not known here; use bf16-true")
    if precision.startswith("16") and not torch.cuda.is_available():
        raise UserError(f"trainer.precision: {precision} needs a GPU; use bf16-true or 32-true")
    if fitting:
        _check_fit(trainer, precision, validates and trainer.limit_val_batches != 0)
    if isinstance(strategy, ParallelStrategy) and strategy.cluster_environment is not None:
        try:  # what torchrun or SLURM started, before anything is loaded
            strategy.cluster_environment.validate_settings(trainer.num_devices, trainer.num_nodes)
        except ValueError as error:
            raise UserError(f"trainer.devices, trainer.num_nodes: {error}") from error
    _check_processes(trainer)


def _check_processes(trainer: Trainer) -> None:
    """Refuse one of several processes that would each train alone, and over the same files."""
    number, size = os.environ.get("RANK"), int(os.environ.get("WORLD_SIZE", 1))
    if size > trainer.world_size or number not in (None, str(trainer.global_rank)):
        raise UserError(
            f"the environment says that this is process {number or 0} of {size} (RANK, WORLD_SIZE),"
            f" the trainer that it is process {trainer.global_rank} of {trainer.world_size}; start "
            "with torchrun or srun, or unset RANK and WORLD_SIZE"
        )


def check_precision(precision: str, under_deepspeed: bool) -> None:
    """Refuse weights that only exist in 16 bits.

    Raises:
        UserError: They do.
    """
    if precision in ("16-true", "bf16-true") and not under_deepspeed:
        raise UserError(
            f"trainer.precision: {precision} keeps the weights in 16 bits alone, in which small "
            "steps are lost; use trainer.strategy wdl.training.deepspeed.DeepSpeed, which keeps "
            f"them in 32 bits too, or {precision.replace('true', 'mixed')}"
        )


def _check_fit(trainer: Trainer, precision: str, validates: bool) -> None:
    check_precision(precision, isinstance(trainer.strategy, DeepSpeed))
    if trainer.max_epochs == -1 and trainer.max_steps == -1:
        raise UserError(
            "trainer.max_epochs: the learning rate's schedule needs an end; set it or max_steps"
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, _PLANNING):
            raise UserError(
                f"trainer.callbacks: {type(callback).__name__} would change what is planned; set "
                "data.batch_size, data.micro_batch_size and the learning rate of model.optimizer"
            )
        if not isinstance(callback, EarlyStopping | ModelCheckpoint):
            continue
        if not (callback.monitor or "").startswith("val/"):
            continue
        if not validates:
            raise UserError(
                f"trainer.callbacks: {type(callback).__name__} watches {callback.monitor}, and "
                "nothing is validated; set data.val_fraction above 0"
            )
        if isinstance(callback, EarlyStopping) and callback._check_on_train_epoch_end is None:
            # or it would look for the metric after epochs without a validation
            callback._check_on_train_epoch_end = False


def check_layers(strategy: Strategy, compiled: bool, quantised: bool) -> None:
    """Refuse layers of another kind where their weights are divided among processes.

    Raises:
        UserError: It is DeepSpeed's strategy at stage 3.
    """
    if not (isinstance(strategy, DeepSpeed) and strategy.zero_stage_3):
        return
    if quantised:
        raise UserError(
            "model.lora.quantised: ZeRO stage 3 divides weights as it loads them, 4 bits are made "
            "of whole ones; set trainer.strategy.init_args.stage to 2, or leave it out"
        )
    if compiled:
        raise UserError(
            "model.compile_backend: ZeRO stage 3 gathers weights as modules run, which a compiled "
            "layer would not see; set trainer.strategy.init_args.stage to 2, or leave it out"
        )


def check_weak_dtype(strategy: Strategy) -> None:
    """Refuse two dtypes where a strategy knows but one.

    Raises:
        UserError: It is DeepSpeed's at stage 3.
    """
    if isinstance(strategy, DeepSpeed) and strategy.zero_stage_3:
        raise UserError(
            "model.weak_dtype: ZeRO stage 3 shards all weights in one dtype; use stage 1 or 2, "
            "or leave weak_dtype out"
        )
