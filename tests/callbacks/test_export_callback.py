"""Exports on the way: which there are, what they hold, and that training does not notice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from conftest import every_sample_once
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from wdl.callbacks.export import StrongExport

from wdl.config.paths import InputPath, ModelSource
from wdl.errors import UserError
from wdl.training.deepspeed import DeepSpeed
from wdl.training.export import export_checkpoint
from wdl.training.weak_driven import WeakDrivenModule


class Odd(pl.Callback):
    """Logs a metric that is never a number."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("val/nan", torch.nan)


@pytest.fixture
def fit(sums: Path, pair: tuple[Path, Path], tmp_path: Path) -> Callable[..., WeakDrivenModule]:
    """A function that trains two epochs of five steps."""

    def run(name: str, resume: Path | None = None, **settings: Any) -> WeakDrivenModule:
        strong, weak = map(ModelSource, pair)
        module = WeakDrivenModule(
            strong, weak, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-2)
        )
        data = every_sample_once(sums, strong, weak)
        trainer = pl.Trainer(
            strategy=DeepSpeed(),
            accelerator="cpu",
            max_epochs=2,
            logger=TensorBoardLogger(tmp_path / name, "", ""),
            callbacks=[
                Odd(),
                StrongExport(**settings),
                ModelCheckpoint(tmp_path / name, "{step}", every_n_train_steps=3, save_top_k=-1),
            ],
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        pl.seed_everything(3)
        trainer.fit(module, data, ckpt_path=None if resume is None else str(resume))
        return module

    return run


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("exports/*")}


def test_every_n_steps_without_a_trace_in_the_training(
    fit: Callable[..., WeakDrivenModule], tmp_path: Path
) -> None:
    fit("plain")
    fit("often", every_n_steps=3)
    assert names(tmp_path / "plain") == set()
    assert names(tmp_path / "often") == {"step=3", "step=6", "step=9"}
    weights = [load_file(tmp_path / n / "strong/model.safetensors") for n in ("plain", "often")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    export_checkpoint(InputPath(tmp_path / "often/step=6.ckpt"), str(tmp_path / "out"))
    for file in (tmp_path / "out").iterdir():
        assert file.read_bytes() == (tmp_path / "often/exports/step=6" / file.name).read_bytes()


def test_the_best_by_a_metric_also_after_a_resume(
    fit: Callable[..., WeakDrivenModule], tmp_path: Path
) -> None:
    fit("falling", best_k=1)
    steps = sorted(int(name.rpartition("=")[2]) for name in names(tmp_path / "falling"))
    assert len(steps) == 1 and steps[0] > 6  # the loss falls
    fit("first", best_k=1, mode="max")
    (first,) = names(tmp_path / "first")
    assert first.startswith("best-step=")
    checkpoint = tmp_path / "first" / "step=6.ckpt"
    fit("later", checkpoint, best_k=1, mode="max")
    assert names(tmp_path / "later") == set()  # the earlier one is still the best
    fit("nothing", best_k=1, monitor="val/nan")
    assert names(tmp_path / "nothing") == set()
    fit("both", best_k=2)
    assert len(names(tmp_path / "both")) == 2


def test_another_dtype(fit: Callable[..., WeakDrivenModule], tmp_path: Path) -> None:
    module = fit("narrow", dtype="bfloat16")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "narrow/strong")
    assert reloaded.dtype == torch.bfloat16
    for name, weight in module.strong.state_dict().items():
        assert torch.equal(reloaded.state_dict()[name], weight.bfloat16())


def test_a_metric_that_is_not_there(fit: Callable[..., WeakDrivenModule]) -> None:
    with pytest.raises(UserError, match=r"no val/nothing; choose from .*val/loss"):
        fit("odd", best_k=1, monitor="val/nothing")


def test_bad_settings() -> None:
    with pytest.raises(UserError, match=r"export.every_n_steps: 0"):
        StrongExport(every_n_steps=0)
    with pytest.raises(UserError, match=r"export.best_k: -1"):
        StrongExport(best_k=-1)
