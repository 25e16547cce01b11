"""Fits and validations in one group of processes: torchrun --nproc_per_node 2 ranks.py CASES OUT.

Several cases share the start of the processes, which takes longer than all of them.
"""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import Strategy
from safetensors.torch import save_file

from wdl.branches.lora import Lora, merge_adapter
from wdl.branches.whole_weights import gather_weights
from wdl.config.paths import DataSource, ModelSource
from wdl.data.planned import PlannedDataModule
from wdl.data.preference import PreferenceDataModule
from wdl.data.weak_driven import Selection, WeakDrivenDataModule
from wdl.training.deepspeed import DeepSpeed
from wdl.training.pair import Pair
from wdl.training.preference import PreferenceModule
from wdl.training.weak_driven import WeakDrivenModule

BATCH_SIZE = 8


@dataclass(frozen=True)
class Case:
    """One fit, or one validation of a checkpoint."""

    name: str
    strategy: str
    strong: str
    weak: str | None
    data: str
    train_weak: bool = True
    lora: bool = False
    preference: bool = False
    reference: Any = "stored"
    micro_batch_size: int = 4
    precision: Any = "32-true"
    steps: int = 10
    save_at: int = 7
    resume: str | None = None
    validate: str | None = None


class Curve(pl.Callback):
    """Records losses by optimizer step; saves checkpoints within an epoch and at the end."""

    def __init__(self, case: Case, out: Path) -> None:
        self.case = case
        self.out = out
        self.losses: dict[int, float] = {}
        self.saved = 0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._record(trainer)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        checkpoint = self.out / f"{self.case.name}.ckpt"
        # several micro-batches in a row may see the same step
        if trainer.global_step == self.case.save_at and self.saved != self.case.save_at:
            self.saved = self.case.save_at
            trainer.save_checkpoint(checkpoint)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._record(trainer)
        assert isinstance(pl_module, Pair)
        weights = gather_weights(pl_module.strong)
        if trainer.is_global_zero:
            if pl_module.lora is not None:
                weights = merge_adapter(weights, pl_module.lora)
            whole = {name: weight.clone() for name, weight in weights.items()}
            save_file(whole, self.out / f"{self.case.name}.safetensors")
        trainer.save_checkpoint(self.out / f"{self.case.name}-end.ckpt")

    def _record(self, trainer: pl.Trainer) -> None:
        if "train/loss" in trainer.callback_metrics:
            self.losses[trainer.global_step] = trainer.callback_metrics["train/loss"].item()


def strategy(name: str) -> Strategy | str:
    """``one``, ``ddp``, ``zero1``, ``zero2``, ``zero3``, and with ``-offload``."""
    if not name.startswith("zero"):
        return "ddp" if name == "ddp" else "auto"
    offload = name.endswith("-offload")
    stage: Any = int(name[4])
    return DeepSpeed(stage, offload_optimizer=offload, offload_parameters=offload and stage == 3)


def run(case: Case, out: Path) -> dict[str, Any]:
    """What a case gives: losses by optimizer step, validation metrics."""
    pl.seed_everything(42)
    strong = ModelSource(case.strong)
    weak = None if case.weak is None else ModelSource(case.weak)
    shared: dict[str, Any] = {
        "lora": Lora(rank=4) if case.lora else None,
        "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
    }
    sizes: dict[str, Any] = {
        "batch_size": BATCH_SIZE,
        "micro_batch_size": case.micro_batch_size,
        "val_fraction": 0.2,
        "cache": str(out / "cache"),
    }
    module: Pair
    data: PlannedDataModule
    if case.preference:
        module = PreferenceModule(strong, weak, case.reference, **shared)
        stored = module.stored_reference
        data = PreferenceDataModule(DataSource(case.data), strong, weak, stored, **sizes)
    else:
        lam = 1 if weak is None else 0.5
        module = WeakDrivenModule(strong, weak, lam, train_weak=case.train_weak, **shared)
        selection = Selection(weights="uniform", draw="without_replacement")
        data = WeakDrivenDataModule(DataSource(case.data), strong, weak, selection, **sizes)
    curve = Curve(case, out)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        strategy=strategy(case.strategy),
        precision=case.precision,
        max_steps=case.steps,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        callbacks=[] if case.validate else [curve],
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    if case.validate:
        trainer.validate(module, data, ckpt_path=case.validate, verbose=False)
    else:
        trainer.fit(module, data, ckpt_path=case.resume)
    metrics = {name: v.item() for name, v in trainer.callback_metrics.items() if "loss" in name}
    return {"losses": curve.losses, "metrics": metrics}


def write_cases(cases: list[Case], file: Path) -> None:
    file.write_text(json.dumps([asdict(case) for case in cases]))


def main() -> None:
    cases, out = (Path(argument) for argument in sys.argv[1:])
    for settings in json.loads(cases.read_text()):
        result = run(Case(**settings), out)
        if torch.distributed.get_rank() == 0:
            (out / f"{settings['name']}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
