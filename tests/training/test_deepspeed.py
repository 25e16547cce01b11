"""What DeepSpeed leaves behind when a fit ends, and what it does not go on from."""

import weakref
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import pytest
from conftest import every_sample_once
from lightning.pytorch.callbacks import ModelCheckpoint

from wdl.branches.lora import Lora
from wdl.config.paths import ModelSource
from wdl.errors import UserError
from wdl.training.deepspeed import DeepSpeed
from wdl.training.weak_driven import WeakDrivenModule


class _Held(pl.Callback):
    """What of the engine is alive when training has begun, and when the fit has ended."""

    def __init__(self) -> None:
        self.references: list[weakref.ref] = []
        self.alive: list[Any] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        engine: Any = trainer.strategy.model
        optimizer = engine.optimizer
        copies = (
            optimizer.fp32_partitioned_groups_flat
            if hasattr(optimizer, "fp32_partitioned_groups_flat")
            else [*optimizer.single_partition_of_fp32_groups, *optimizer.bit16_groups_flat]
        )
        assert copies
        self.references = [weakref.ref(each) for each in (engine, optimizer, *copies)]

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.alive = [type(found()) for found in self.references if found() is not None]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_engine_is_gone_before_a_child_process_starts(
    stage: Literal[1, 2, 3], sums: Path, pair: tuple[Path, Path]
) -> None:
    held = _Held()
    sources = ModelSource(pair[0]), ModelSource(pair[1])
    trainer = _trainer(stage, held)
    trainer.fit(WeakDrivenModule(*sources), every_sample_once(sums, *sources))
    assert held.references and not held.alive


@pytest.mark.parametrize("stage", [2, 3])
def test_a_checkpoint_without_adapters_is_refused_in_one_line(
    stage: Literal[2, 3], sums: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """DeepSpeed itself would list every weight, behind a traceback."""
    sources = ModelSource(pair[0]), ModelSource(pair[1])
    saving = ModelCheckpoint(tmp_path, "whole", every_n_train_steps=2)
    _trainer(stage, saving).fit(WeakDrivenModule(*sources), every_sample_once(sums, *sources))
    with_adapters = WeakDrivenModule(*sources[:1] * 2, lora=Lora(rank=2), train_weak=False)
    with pytest.raises(UserError, match=r"belongs to another model, or model\.lora is another"):
        _trainer(stage).fit(
            with_adapters,
            every_sample_once(sums, *sources),
            ckpt_path=tmp_path / "whole.ckpt",
            weights_only=False,
        )


def _trainer(stage: Literal[1, 2, 3], *callbacks: pl.Callback) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        strategy=DeepSpeed(stage),
        precision="bf16-true",
        max_steps=2,
        logger=False,
        enable_checkpointing=any(isinstance(each, ModelCheckpoint) for each in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*callbacks],
    )
