"""What a fit writes to its events of the logit dynamics, read back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from conftest import every_sample_once
from dynamics_reference import reference
from events import read_events, runs_seen
from lightning.pytorch.loggers import CSVLogger, Logger
from transformers import AutoModelForCausalLM
from wdl.callbacks.dynamics import BranchLogger, DynamicsHistograms

from wdl.config.paths import ModelSource
from wdl.constants import IGNORE_INDEX
from wdl.data.batches import collate
from wdl.data.weak_driven import WeakDrivenDataModule
from wdl.metrics.dynamics import BRANCHES, LOSSES
from wdl.training.deepspeed import DeepSpeed
from wdl.training.weak_driven import Dynamics, WeakDrivenModule

LAM = 0.4


def fit(
    data: Path, pair: tuple[Path, Path], dynamics: Dynamics, logger: Logger | None = None
) -> tuple[WeakDrivenDataModule, Path]:
    """Five optimizer steps of four micro-batches each, and the folder that they wrote to."""
    strong, weak = map(ModelSource, pair)
    datamodule = every_sample_once(data, strong, weak, micro_batch_size=2)
    trainer = pl.Trainer(
        strategy=DeepSpeed(stage=1),
        accelerator="cpu",
        max_epochs=1,
        logger=logger or BranchLogger("runs", "joint"),
        callbacks=[DynamicsHistograms()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = WeakDrivenModule(strong, weak, lam=LAM, dynamics=dynamics)
    trainer.fit(module, datamodule)
    assert trainer.log_dir is not None
    return datamodule, Path(trainer.log_dir)


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


def written(run: Path, prefix: str) -> dict[str, Any]:
    """All curves, those of a branch named after the folder that they are in."""
    found = {}
    for folder in (run, *(run / "dynamics" / branch for branch in BRANCHES)):
        events = read_events(folder)
        for tag in events.Tags()["scalars"]:
            if tag.startswith(prefix):
                name = tag.removeprefix(prefix)
                found[name if folder == run else f"{name}/{folder.name}"] = events.Scalars(tag)
    return found


def test_the_first_step_is_recorded_as_defined(sums: Path, pair: tuple[Path, Path]) -> None:
    data, run = fit(sums, pair, Dynamics("full", every_n_steps=3))
    curves = written(run, "dynamics/")
    assert all([event.step for event in points] == [0, 3] for points in curves.values())
    expected = first_step(data, pair)
    del expected["amplification/saturated"]  # no token of a random model is
    found = {name: points[0].value for name, points in curves.items()}
    del found["amplification/saturated"]
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    validated = written(run, "val/dynamics/")
    assert validated.keys() == curves.keys()
    events = read_events(run / "dynamics" / "strong")
    histogram = events.Histograms("histograms/margin")[0].histogram_value
    assert histogram.num == sum(histogram.bucket)
    assert histogram.min <= validated["margin/strong"][0].value <= histogram.max


def test_branches_are_runs_that_share_a_chart(sums: Path, pair: tuple[Path, Path]) -> None:
    """TensorBoard draws one chart of a tag, with a curve of each run that has it."""
    _, run = fit(sums, pair, Dynamics("cheap", every_n_steps=5))
    names = ("joint/version_0", *(f"joint/version_0/dynamics/{branch}" for branch in BRANCHES))
    assert runs_seen(Path("runs")) == set(names)
    trained = {"dynamics/target", "dynamics/non_target_mean", "dynamics/margin"}
    main = read_events(run)
    for branch in BRANCHES:
        events = read_events(run / "dynamics" / branch)
        tags = set(events.Tags()["scalars"])
        assert {tag for tag in tags if not tag.startswith("val/")} == trained
        assert {"val/dynamics/margin", "val/dynamics/entropy", "val/losses"} < tags
        (loss,), (same) = events.Scalars("val/losses"), main.Scalars(LOSSES[branch])
        assert (loss.step, loss.value) == (same[0].step, same[0].value)
    left = {tag for tag in main.Tags()["scalars"] if "dynamics" in tag}
    assert left == {
        f"val/dynamics/{name}"
        for name in (
            *("amplification/all", "amplification/saturated", "kl/mixed_strong"),
            *("agreement/weak_strong", "hard_negatives/share", "hard_negatives/mass"),
            "entropy_change/weak_to_strong",
        )
    }


@pytest.mark.parametrize("write", [BranchLogger.save, lambda logger: logger.finalize("failed")])
def test_nothing_is_held_back(write: Callable[[BranchLogger], None], tmp_path: Path) -> None:
    """Neither after the trainer's calls on the way, nor at the end of a fit that failed."""
    logger = BranchLogger(str(tmp_path), "joint")
    for step in range(50):
        logger.log_metrics({"dynamics/margin/strong": 1.0}, step)
    write(logger)
    strong = read_events(tmp_path / "joint" / "version_0" / "dynamics" / "strong")
    assert len(strong.Scalars("dynamics/margin")) == 50


def test_a_link_to_a_run_would_show_it_twice(tmp_path: Path) -> None:
    logger = BranchLogger(str(tmp_path), "joint")
    logger.log_metrics({"train/loss": 1.0}, step=0)
    logger.finalize("success")
    (tmp_path / "joint" / "latest").symlink_to("version_0")
    assert runs_seen(tmp_path) == {"joint/version_0", "joint/latest"}


def test_another_logger_gets_flat_names(sums: Path, pair: tuple[Path, Path]) -> None:
    _, run = fit(sums, pair, Dynamics("cheap", every_n_steps=5), CSVLogger("runs", "joint"))
    header = (run / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"dynamics/margin/weak", "val/dynamics/entropy/mixed", "val/strong_loss"} <= set(header)


def test_off_is_off(sums: Path, pair: tuple[Path, Path]) -> None:
    _, run = fit(sums, pair, Dynamics("off"))
    assert not written(run, "dynamics/") and not written(run, "val/dynamics/")
    for branch in BRANCHES:
        tags = read_events(run / "dynamics" / branch).Tags()
        assert tags["scalars"] == ["val/losses"] and not tags["histograms"]
