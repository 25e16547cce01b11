"""Fits that EarlyStopping ends: the last step's checkpoint, what a resume of it does, two ranks."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import yaml
from conftest import CONFIGS, every_sample_once
from lightning.pytorch.callbacks import EarlyStopping
from wdl.callbacks.checkpoints import Checkpoints
from wdl.callbacks.early import StayStopped, early_end, without_early_end

from wdl.config.paths import ModelSource
from wdl.training.deepspeed import DeepSpeed
from wdl.training.weak_driven import WeakDrivenModule

EPOCH = 5
"""Optimizer steps in an epoch; a whole run has three."""


def fit(
    data: Path,
    pair: tuple[Path, Path],
    name: str,
    patience: int | None,
    resume: Path | None = None,
    interval: float = 1.0,
    **cadence: Any,
) -> tuple[pl.Trainer, list[int]]:
    """A fit that saves to the folder `name`, and its steps; nothing ever improves enough."""
    steps: list[int] = []

    class Steps(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            steps.append(trainer.global_step)

    stopping = [] if patience is None else [EarlyStopping("val/loss", 100, patience)]
    for one in stopping:
        one._check_on_train_epoch_end = False  # as `wdl fit` sets it
    strong, weak = map(ModelSource, pair)
    trainer = pl.Trainer(
        strategy=DeepSpeed(stage=1),
        accelerator="cpu",
        max_epochs=3,
        val_check_interval=interval,
        logger=False,
        callbacks=[Checkpoints(name, **cadence), StayStopped(), *stopping, Steps()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = WeakDrivenModule(strong, weak)
    trainer.fit(module, every_sample_once(data, strong, weak), ckpt_path=resume)
    return trainer, steps


def checkpoint(name: str) -> Path:
    (found,) = Path(name).glob("*.ckpt")
    return found


@pytest.mark.parametrize(
    ("interval", "cadence", "last"),
    [
        (1.0, {}, 2 * EPOCH),
        (0.4, {"every_n_train_steps": 4}, 4),  # which is written before the validation
    ],
)
def test_a_resume_takes_no_step_unless_it_has_more_patience(
    interval: float, cadence: Any, last: int, sums: Path, pair: tuple[Path, Path]
) -> None:
    run = partial(fit, sums, pair)
    trainer, steps = run("cut", 1, None, interval, **cadence)
    found = early_end(trainer)
    assert found is not None and (found["step"], found["planned"]) == (last, 3 * EPOCH)
    assert "val/loss did not improve" in found["reason"] and steps[-1] == last
    assert f"step={last}" in checkpoint("cut").name
    trainer, steps = run("same", 1, checkpoint("cut"), interval, **cadence)
    assert not steps and early_end(trainer) == found
    trainer, steps = run("patient", 2, checkpoint("cut"), interval, **cadence)
    assert steps[0] == last + 1
    assert steps[-1] == last + (EPOCH if interval == 1 else 3)  # the next validation
    _, steps = run("without", None, checkpoint("cut"), interval, **cadence)
    assert steps == list(range(last + 1, 3 * EPOCH + 1))


def test_a_control_has_neither_the_stop_nor_the_logs_of_its_run(tmp_path: Path) -> None:
    early = {"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": 1}}
    other = {"class_path": "lightning.pytorch.callbacks.LearningRateMonitor", "init_args": {}}
    logger = {"class_path": "WandbLogger", "init_args": {"id": "abc", "project": "mine"}}
    trainer = {"callbacks": [early, other], "logger": logger}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
    options = without_early_end(tmp_path / "config.yaml")
    given = dict(zip(options[::2], options[1::2], strict=True))
    assert json.loads(given["--trainer.callbacks"]) == [other]
    (own,) = json.loads(given["--trainer.logger"])
    assert own["init_args"] == {"id": None, "project": "mine"}
    assert given["--trainer.max_time"] == "null"


def test_two_processes_end_together(sums: Path, pair: tuple[Path, Path]) -> None:
    settings = {
        "model.strong": pair[0],
        "model.weak": pair[1],
        "data.path": sums,
        "data.batch_size": 8,
        "data.micro_batch_size": 4,
        "data.val_fraction": 0.2,
        "data.selection.weights": "uniform",
        "evaluation.benchmark": "null",
        "evaluation.sft_control": "false",
        "trainer.devices": 2,
        "trainer.val_check_interval": 2,
        "checkpoint.every_n_train_steps": 3,
        "trainer.logger": "CSVLogger",
        "tensorboard": "false",
    }
    stopping = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    stopping += ["--trainer.callbacks.patience=1", "--trainer.callbacks.min_delta=100"]
    command = [sys.executable, "-m", "wdl", "fit", "--config", str(CONFIGS / "joint.yaml")]
    given = [f"--{name}={value}" for name, value in settings.items()]
    child = subprocess.run([*command, *given, *stopping], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr[-3000:]
    run = Path("runs/joint/version_0")
    early = json.loads((run / "results.json").read_text())["stopped_early"]
    assert early["step"] == 4
    assert f"stopped early, at step 4 of {early['planned']}" in child.stderr
    assert [file.name for file in (run / "checkpoints").iterdir()] == ["epoch=0-step=4.ckpt"]
    assert "val/loss" in (run / "csv" / "metrics.csv").read_text().splitlines()[0]
    assert not list(run.rglob("events.*")) and (run / "hparams.yaml").read_text()
    assert (run.parent / "latest" / "strong" / "model.safetensors").is_file()
