"""What is planned of memory and disk, against real fits whose tensors are counted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from conftest import every_sample_once

from wdl.branches.lora import Lora
from wdl.config.paths import ModelSource
from wdl.losses.mixed_loss import CHUNK_BYTES
from wdl.planning.memory import BUCKET, Machine, memory
from wdl.planning.simulation import LiveBytes, Loss, MicroBatch, add_branches
from wdl.training.deepspeed import DeepSpeed
from wdl.training.weak_driven import WeakDrivenModule

BATCH = 4
WITHIN = 0.15
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}


class Peaks(pl.Callback):
    """Most bytes in forward and backward passes, and in optimizer steps; files of a checkpoint."""

    def __init__(self, live: LiveBytes) -> None:
        self.live = live
        self.backward = self.step = self.checkpoint = self.done = 0

    def _take(self) -> int:
        peak, self.live.peak = self.live.peak, self.live.now
        return peak

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._take()

    def on_before_optimizer_step(self, *hook: Any) -> None:
        self.backward = max(self.backward, self._take())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *batch: Any
    ) -> None:
        if trainer.global_step > self.done:
            self.done = trainer.global_step
            self.step = max(self.step, self._take())
        else:
            self.backward = max(self.backward, self._take())

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.save_checkpoint("end.ckpt")
        files = [file for file in Path().glob("end.ckpt*/**/*") if file.is_file()]
        self.checkpoint = sum(f.stat().st_size for f in files or [Path("end.ckpt")])


@pytest.fixture(scope="module")
def branch(make_branch: Callable[..., Path]) -> ModelSource:
    return ModelSource(make_branch(seed=1, **SIZES))


@pytest.mark.parametrize(
    ("micro_batch", "stage", "precision", "settings"),
    [
        (4, None, "32-true", {}),
        (1, None, "32-true", {"gradient_checkpointing": True, "train_weak": False}),
        (4, None, "bf16-mixed", {}),
        (4, None, "32-true", {"train_weak": False, "lora": Lora(rank=4)}),
        (4, 2, "bf16-true", {"gradient_checkpointing": True}),
    ],
)
def test_a_fit_holds_what_was_planned(
    micro_batch: int,
    stage: Any,
    precision: Any,
    settings: dict[str, Any],
    branch: ModelSource,
    write_rows: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # or the logits, which have room of one size, would be most of a model this small
    monkeypatch.setitem(CHUNK_BYTES, "cpu", 2**20)

    def adamw(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.AdamW(parameters, lr=1e-3, foreach=True)  # as GPUs do

    rows = write_rows([{"instruction": f"{'x' * 50}{n}", "output": "y" * 120} for n in range(8)])
    sizes = {"batch_size": BATCH, "micro_batch_size": micro_batch, "val_fraction": 0}
    data = every_sample_once(rows, branch, branch, **sizes)
    peaks = Peaks(LiveBytes())
    trainer = pl.Trainer(
        accelerator="cpu",
        strategy="auto" if stage is None else DeepSpeed(stage=stage),
        max_steps=2,
        precision=precision,
        logger=False,
        callbacks=[peaks],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with peaks.live:
        trainer.fit(WeakDrivenModule(branch, branch, optimizer=adamw, **settings), data)
    work = data.work(range(micro_batch))
    module = WeakDrivenModule(branch, branch, **settings)
    machine = Machine(1, stage, False, False, precision)
    add_branches(module, machine.dtype)
    batch = MicroBatch(int(work.lengths.max()) * micro_batch, work.counted)
    loss = Loss(CHUNK_BYTES["cpu"], full=True)
    planned = memory(module, machine, batch, loss, BATCH // micro_batch)
    # of the same size whatever the model is, and far larger than this one
    buckets = 2 * BUCKET * machine.dtype.itemsize if stage else 0
    assert planned.parts.get("buckets", 0) == buckets
    assert planned.backward - buckets == pytest.approx(peaks.backward - buckets, rel=WITHIN)
    assert planned.step == pytest.approx(peaks.step, rel=WITHIN, abs=1e6)
    # the names of the weights, and what the trainer says of itself, are of no size in a real one
    assert planned.checkpoint == pytest.approx(peaks.checkpoint, rel=0.05, abs=2e5)
