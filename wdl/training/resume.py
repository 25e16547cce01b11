"""Going on from a checkpoint: what refuses it, and where a fit that goes on stands.

Everything that can speak against a resume stands here: strategy, stage and number of processes,
data and plan, frozen weights, the model itself. (Whether a checkpoint is complete, and safe to
open, is the business of :mod:`wdl.training.checkpoints`.)

The plan goes by optimizer steps, and so does a resume; Lightning goes by micro-batches and epochs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from wdl.branches.lora import Lora
from wdl.errors import UserError
from wdl.training.checkpoints import Manifest


@dataclass(frozen=True)
class Agreement:
    """What a run and the checkpoint that it goes on from must agree in.

    Args:
        accumulation: Micro-batches of a step on each process; may differ, but is counted by.
        data: SHA-256 of the data.
        plan: SHA-256 of the optimizer steps; None in a validation.
        path: Where the data are.
        frozen: Where the frozen weights come from, if there are any.
        frozen_sha256: Their hash.
        reference: Whose log-probabilities the answers are compared with, if they are stored.
        reference_sha256: Its hash.
        settings: What the method says of itself; None in what an earlier version wrote.
        vision_sha256: Hash of the models whose vision towers stay as they are.
    """

    accumulation: int
    data: str
    plan: str | None
    path: str
    frozen: str | None = None
    frozen_sha256: str | None = None
    reference: str | None = None
    reference_sha256: str | None = None
    settings: dict[str, Any] | None = None
    vision_sha256: str | None = None


def check_strategy(checkpoint: Path, stage: int | None, world_size: int) -> None:
    """Make sure that a strategy can go on from a checkpoint that another run has written.

    Args:
        checkpoint: A complete one.
        stage: ZeRO stage of the run; None if its strategy is not DeepSpeed.
        world_size: Number of its processes.

    Raises:
        UserError: It was not written under the same stage by as many processes.
    """
    manifest = Manifest.read(checkpoint)
    if stage is None:
        if checkpoint.is_dir():
            raise UserError(
                f"{checkpoint}: DeepSpeed wrote this checkpoint; go on with trainer.strategy "
                "wdl.training.deepspeed.DeepSpeed"
            )
    elif manifest is None:
        raise UserError(
            f"{checkpoint}: DeepSpeed did not write this checkpoint, and cannot go on from it; "
            "use the strategy that did, or start from its strong branch (wdl export)"
        )
    elif (manifest.stage, manifest.world_size) != (stage, world_size):
        raise UserError(
            f"{checkpoint}: was written by {manifest.world_size} processes under ZeRO stage "
            f"{manifest.stage}, and this run has {world_size} under stage {stage}; "
            "the optimizer's state is divided among them, so use as many and the same stage, "
            "or start from its strong branch (wdl export)"
        )


def check_weights(own: Mapping[str, Any], stored: Mapping[str, Any]) -> None:
    """Make sure that a checkpoint is of this model.

    Args:
        own: Shape of each weight by its name, as the model has it.
        stored: The same, as the checkpoint has it.

    Raises:
        UserError: A weight is only in one of them, or has another shape.
    """
    if odd := own.keys() ^ stored.keys():
        raise UserError(
            f"ckpt_path: {sorted(odd)[0]} is not both in the checkpoint and in the model "
            f"({len(odd)} such weights); it belongs to another model, or model.lora is another"
        )
    for name, shape in own.items():
        if shape != stored[name]:
            raise UserError(
                f"ckpt_path: {name} is {list(stored[name])} in the checkpoint and "
                f"{list(shape)} in the model; it belongs to another model"
            )


def resume(checkpoint: dict[str, Any], now: Agreement, fitting: bool) -> None:
    """Make sure that a checkpoint is of this run, and count as this run does.

    Args:
        checkpoint: What was saved; its loops are changed in place.
        now: What this run is.
        fitting: Whether it goes on training; a validation may be on other data.

    Raises:
        UserError: Frozen weights, the method's settings, data, selection, batch size or seed are
            not what they were.
    """
    if "agreement" not in checkpoint:
        raise UserError(
            "ckpt_path: an earlier version of wdl, or something else, wrote this checkpoint; start "
            "from what that exported"
        )
    before = Agreement(**checkpoint["agreement"])
    if now.frozen_sha256 != before.frozen_sha256:
        raise UserError(
            f"model.weak: {now.frozen or 'no frozen branch'} is not what the checkpoint was "
            f"trained with, {_named(before.frozen, before.frozen_sha256)}; restore it, or start "
            "without --ckpt_path"
        )
    if now.vision_sha256 != before.vision_sha256:
        raise UserError(
            "model.strong: the vision tower that does not train is not the checkpoint's, or "
            "model.train_vision is another; restore what changed, or start without --ckpt_path"
        )
    if now.reference_sha256 != before.reference_sha256:
        raise UserError(
            f"model.weak: the reference {now.reference or '(none stored)'} is not what the "
            f"checkpoint was trained against, {_named(before.reference, before.reference_sha256)}; "
            "restore it, or start without --ckpt_path"
        )
    if not fitting:
        if now.data != before.data:
            rank_zero_warn(f"{now.path} is not the data that the checkpoint was trained on")
        return
    if before.settings not in (None, now.settings):
        raise UserError(
            f"ckpt_path: the checkpoint was trained with {_told(before.settings)}, this run has "
            f"{_told(now.settings)}; restore what changed, or start without --ckpt_path from what "
            "that run exported"
        )
    if now.data != before.data:
        raise UserError(
            f"ckpt_path: {now.path} is not what the checkpoint was trained on, {before.path} as it "
            "was then (contents and names of files count); restore it, or start without --ckpt_path"
        )
    if now.plan != before.plan:
        raise UserError(
            "ckpt_path: the checkpoint was trained on other samples, or in another order; "
            "restore what changed (data, selection, batch_size, seed_everything, the branches; "
            "they stand in config.yaml of its run, beside checkpoints/), or start without "
            "--ckpt_path"
        )
    _count_anew(checkpoint["loops"]["fit_loop"], before.accumulation, now.accumulation)


def check_adapter(before: Mapping[str, Any] | None, now: Lora | None) -> None:
    """Make sure that an adapter goes on, or is validated, as what it was trained as.

    Its weights would fit all the same, and make another model.

    Args:
        before: The settings in the checkpoint; None if it holds no adapter.
        now: Those of this run.

    Raises:
        UserError: Names the setting that differs.
    """
    if before is None or now is None:
        return  # the names of the weights tell
    earlier = Lora(**before)
    for name in ("rank", "alpha", "quantised"):
        was, is_now = getattr(earlier, name), getattr(now, name)
        if was != is_now:
            raise UserError(
                f"ckpt_path: the checkpoint was trained with model.lora.{name} {was}, this run has "
                f"{is_now}; restore it, or start without --ckpt_path from what that run exported"
            )


def _named(source: str | None, digest: str | None) -> str:
    return "none" if source is None else f"{source} with SHA-256 {digest}"


def _told(settings: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{name} {value}" for name, value in (settings or {}).items()) or "no settings"


def _count_anew(loops: dict[str, Any], accumulation_before: int, accumulation: int) -> None:
    """Rewrite the counts of Lightning's fit loop, in place.

    Another number of processes, or another micro-batch size, makes other micro-batches of the same
    optimizer steps. Where ``trainer.max_steps`` ended a run within an epoch, Lightning would take
    it for a whole one; at its end, it would go through it again without a batch.
    """
    batches, epochs = loops["epoch_loop.batch_progress"], loops["epoch_progress"]
    for counts in (batches["total"], batches["current"]):
        open_ones = counts["ready"] - counts["completed"]  # one, while its hooks run
        begun = counts["ready"] // accumulation_before * accumulation
        counts.update(ready=begun, started=begun, processed=begun, completed=begun - open_ones)
    if epochs["current"]["processed"] < epochs["current"]["ready"]:
        return  # saved within an epoch
    whole = batches["is_last_batch"]
    for counts in (epochs["total"], epochs["current"]):
        over = counts["ready"] if whole else counts["ready"] - 1
        counts.update(processed=over, completed=over)
    if whole:
        batches["current"].update(ready=0, started=0, processed=0, completed=0)
        batches["is_last_batch"] = False
