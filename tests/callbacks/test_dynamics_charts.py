"""What a fit writes to its events of the logit dynamics, read back."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from conftest import every_sample_once
from dynamics_reference import reference
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from transformers import AutoModelForCausalLM
from wdl.callbacks.dynamics import DynamicsCharts

from wdl.config.paths import ModelSource
from wdl.constants import IGNORE_INDEX
from wdl.data.encoding import collate
from wdl.data.weak_driven import WeakDrivenDataModule
from wdl.training.deepspeed import DeepSpeed
from wdl.training.weak_driven import Dynamics, WeakDrivenModule

LAM = 0.4


def fit(
    data: Path, pair: tuple[Path, Path], dynamics: Dynamics
) -> tuple[WeakDrivenDataModule, EventAccumulator]:
    """Five optimizer steps of four micro-batches each, and what they left in the events."""
    strong, weak = map(ModelSource, pair)
    datamodule = every_sample_once(data, strong, weak, micro_batch_size=2)
    trainer = pl.Trainer(
        strategy=DeepSpeed(stage=1),
        accelerator="cpu",
        max_epochs=1,
        logger=TensorBoardLogger("runs", default_hp_metric=False),
        callbacks=[DynamicsCharts()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = WeakDrivenModule(strong, weak, lam=LAM, dynamics=dynamics)
    trainer.fit(module, datamodule)
    assert trainer.log_dir is not None
    events = EventAccumulator(trainer.log_dir, {"tensors": 0, "histograms": 0})
    events.Reload()
    return datamodule, events


def first_step(data: WeakDrivenDataModule, pair: tuple[Path, Path]) -> dict[str, float]:
    """The reference on the samples of the first step, by the branches as they were before it."""
    assert data.plan is not None
    step = next(iter(data.plan.epoch(0)))
    samples = [data.train_samples[i] for micro in step for i in micro.samples]
    batch = collate(samples, [0] * len(samples), 0, 1)
    counted = batch["labels"] != IGNORE_INDEX
    with torch.no_grad():
        strong, weak = (
            AutoModelForCausalLM.from_pretrained(folder)
            .double()(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            .logits[counted]
            for folder in pair
        )
    return reference(strong, weak, batch["labels"][counted], LAM, counted.sum(1).tolist())


def written(events: EventAccumulator, prefix: str) -> dict[str, Any]:
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith(prefix)]
    return {tag.removeprefix(prefix): events.Scalars(tag) for tag in tags}


def test_the_first_step_is_recorded_as_defined(sums: Path, pair: tuple[Path, Path]) -> None:
    data, events = fit(sums, pair, Dynamics("full", every_n_steps=3))
    curves = written(events, "dynamics/")
    assert all([event.step for event in points] == [0, 3] for points in curves.values())
    expected = first_step(data, pair)
    del expected["amplification/saturated"]  # no token of a random model is
    found = {name: points[0].value for name, points in curves.items()}
    del found["amplification/saturated"]
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    validated = written(events, "val/dynamics/")
    assert validated.keys() == curves.keys()
    histogram = events.Histograms("histograms/margin/strong")[0].histogram_value
    assert histogram.num == sum(histogram.bucket)
    assert histogram.min <= validated["margin/strong"][0].value <= histogram.max


def test_weak_strong_and_mixed_share_a_chart(sums: Path, pair: tuple[Path, Path]) -> None:
    _, events = fit(sums, pair, Dynamics("cheap", every_n_steps=5))
    assert set(written(events, "dynamics/")) == {
        f"{quantity}/{branch}"
        for quantity in ("target", "non_target_mean", "margin")
        for branch in ("weak", "strong", "mixed")
    }
    (event,) = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    charts = {(c.title, chart.title): chart for c in layout.category for chart in c.chart}
    assert list(charts["training", "margin"].multiline.tag) == [
        f"dynamics/margin/{branch}$" for branch in ("weak", "strong", "mixed")
    ]
    assert ("validation", "entropy") in charts and ("training", "entropy") not in charts


def test_off_is_off(sums: Path, pair: tuple[Path, Path]) -> None:
    _, events = fit(sums, pair, Dynamics("off"))
    assert not written(events, "dynamics/") and not written(events, "val/dynamics/")
    assert not events.Tags()["tensors"] and not events.Tags()["histograms"]
