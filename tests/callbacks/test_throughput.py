"""Throughput: what is counted, what the clock leaves out, and what stands in the logs."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import wdl.callbacks.throughput
from conftest import every_sample_once
from events import read_events
from wdl.callbacks.dynamics import BranchLogger
from wdl.callbacks.screen import BranchSummary
from wdl.callbacks.throughput import Throughput

from wdl.branches.loading import load_branch
from wdl.config.paths import DataSource, ModelSource
from wdl.constants import IGNORE_INDEX
from wdl.data.batches import Batch
from wdl.data.planned import PlannedDataModule
from wdl.data.preference import PreferenceDataModule
from wdl.losses.preference import Preference
from wdl.metrics.flops import Products
from wdl.training.pair import Pair
from wdl.training.preference import PreferenceModule
from wdl.training.weak_driven import WeakDrivenModule

PAUSE = 1000


class Pace(pl.Callback):
    """A clock by which a micro-batch takes a second and a validation many; what batches hold."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.lengths: list[int] = []
        self.counted = self.micro_batches = 0
        monkeypatch.setattr(wdl.callbacks.throughput.time, "perf_counter", lambda: self.now)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self.now += 1
        self.micro_batches += 1
        mask = batch["attention_mask"]
        if mask is None:
            self.lengths += batch["segments"]["cu_seq_lens_q"].diff().tolist()
        elif len(batch["sample_ids"]):
            self.lengths += mask.sum(1).tolist()
        self.counted += int((batch["labels"] != IGNORE_INDEX).sum())

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.now += PAUSE


def fit(module: Pair, data: PlannedDataModule, pace: Pace, **settings: Any) -> Throughput:
    found = Throughput()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=BranchLogger("runs", "run"),
        log_every_n_steps=2,
        callbacks=[BranchSummary(), found, pace],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{key: value for key, value in settings.items() if key != "ckpt_path"},
    )
    trainer.fit(module, data, ckpt_path=settings.get("ckpt_path"))
    return found


@pytest.mark.parametrize("packed", [False, True])
def test_tokens_and_flops_are_those_of_the_batches(
    packed: bool,
    sums: Path,
    pair: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    strong, weak = map(ModelSource, pair)
    sizes = {"micro_batch_size": 1, "max_length": 100, "max_tokens": 100, "batch_size": 2}
    data = every_sample_once(sums, strong, weak, **(sizes if packed else {"micro_batch_size": 4}))
    pace = Pace(monkeypatch)
    module = WeakDrivenModule(strong, weak, train_weak=False)
    with caplog.at_level(logging.INFO):
        found = fit(module, data, pace, max_epochs=2)
    assert found._run.tokens == sum(pace.lengths) > 0
    products = Products.of(load_branch(strong))
    assert found._run.flops == sum(
        products.step(pace.lengths, pace.counted, what) for what in ("all", "nothing")
    )
    # all time but that of both validations
    assert found.totals["tokens_per_s"] == sum(pace.lengths) / pace.micro_batches
    assert found.totals["seconds"] == pace.micro_batches + PAUSE
    assert "mfu" not in found.totals and found.totals["peak_memory_gb"] > 0
    steps = 2 * data.summary.steps
    lines = [m for m in caplog.messages if re.match(r"step \d+ of", m)]
    assert [int(line.split()[1]) for line in lines] == sorted({*range(2, steps + 1, 2), steps})
    assert re.fullmatch(
        rf"step {steps} of {steps}: loss [\d.]+, [\d,]+ tokens/s, peak [\d.]+ GB, 0:00:00 left",
        lines[-1],
    )
    events = read_events(Path("runs/run/version_0"))
    rates = [event.value for event in events.Scalars("throughput/tokens_per_s")]
    assert len(rates) == len(lines)
    assert events.Scalars("throughput/seconds_left")[-1].value == 0
    size = sum(weight.numel() for weight in module.strong.parameters())
    said = [f"{size:,} parameters, {trains}" for trains in ("all train", "none trains")]
    names = ("strong: Qwen3ForCausalLM, ", "weak: Qwen3ForCausalLM, ")
    assert [m for m in caplog.messages if "ForCausalLM" in m] == [
        name + words for name, words in zip(names, said, strict=True)
    ]


def test_what_came_before_a_resume_counts_for_nothing(
    sums: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Save(Pace):
        def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.save_checkpoint("last.ckpt")

    strong, _ = map(ModelSource, pair)
    fits = []
    for steps, checkpoint in ((3, None), (7, "last.ckpt")):
        pace = Save(monkeypatch)
        data = every_sample_once(sums, strong, micro_batch_size=4)
        module = WeakDrivenModule(strong, lam=1.0)
        found = fit(module, data, pace, max_epochs=9, max_steps=steps, ckpt_path=checkpoint)
        assert found._run.tokens == sum(pace.lengths)
        fits.append((found, pace))
    resumed, pace = fits[1]
    assert pace.micro_batches < 2 * 7
    assert resumed.totals["tokens_per_s"] == sum(pace.lengths) / pace.micro_batches


def test_all_sequences_of_questions_count(
    pair: tuple[Path, Path],
    write_rows: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [
        {"prompt": f"{n} + {n}", "chosen": f"{2 * n}", "rejected": f"{2 * n + wrong}"}
        for n in range(12)
        for wrong in range(1, 2 + n % 3)
    ]
    strong = ModelSource(pair[0])
    module = PreferenceModule(strong, objective=Preference("simpo"))
    path = DataSource(write_rows(rows))
    data = PreferenceDataModule(path, strong, batch_size=4, micro_batch_size=2, val_fraction=0)
    pace = Pace(monkeypatch)
    found = fit(module, data, pace, max_epochs=1)
    products = Products.of(module.strong)
    assert len(pace.lengths) == len(rows) + 12
    assert found._run.tokens == sum(pace.lengths)
    assert found._run.flops == products.step(pace.lengths, pace.counted, "all")
