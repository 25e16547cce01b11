"""Checkpoints of a run that max_steps ends: the last step has one, and a longer run goes on."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from conftest import every_sample_once
from wdl.callbacks.checkpoints import Checkpoints

from wdl.config.paths import ModelSource
from wdl.training.weak_driven import WeakDrivenModule

EPOCH = 5
"""Optimizer steps in an epoch; a whole run has two."""

Fit = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture
def fit(sums: Path, pair: tuple[Path, Path]) -> Fit:
    """A function that trains and returns the strong weights, and saves to the folder `name`."""

    def run(
        name: str, steps: int = -1, resume: str | None = None, interval: float = 1.0, **cadence: Any
    ) -> dict[str, torch.Tensor]:
        strong, weak = map(ModelSource, pair)
        module = WeakDrivenModule(strong, weak, schedule="constant", warmup=0)
        data = every_sample_once(sums, strong, weak, micro_batch_size=4)
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=2,
            max_steps=steps,
            val_check_interval=interval,
            logger=False,
            callbacks=[Checkpoints(name, **cadence)],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        pl.seed_everything(3)
        trainer.fit(module, data, ckpt_path=resume)
        assert data.summary.steps == EPOCH
        return module.strong.state_dict()

    return run


@pytest.mark.parametrize("longer", [-1, 2 * EPOCH])
@pytest.mark.parametrize("steps", [EPOCH - 1, EPOCH, EPOCH + 1])
@pytest.mark.parametrize("cadence", [{}, {"every_n_train_steps": 2}])
def test_a_run_that_max_steps_ended_goes_on(
    cadence: dict[str, Any], steps: int, longer: int, fit: Fit
) -> None:
    whole = fit("whole")
    fit("cut", steps, **cadence)
    epoch = (steps - 1) // EPOCH
    assert [file.name for file in Path("cut").iterdir()] == [f"epoch={epoch}-step={steps}.ckpt"]
    resumed = fit("on", longer, f"cut/epoch={epoch}-step={steps}.ckpt", **cadence)
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())
    assert [file.name for file in Path("on").iterdir()] == [f"epoch=1-step={2 * EPOCH}.ckpt"]


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"train_time_interval": timedelta(hours=1)}, ["epoch=0-step=3.ckpt"]),
        ({"every_n_epochs": 2}, ["epoch=0-step=3.ckpt"]),
        ({"interval": EPOCH}, ["epoch=0-step=3.ckpt"]),
        ({"every_n_train_steps": 2, "save_last": "link"}, ["epoch=0-step=3.ckpt", "last.ckpt"]),
        ({"every_n_train_steps": 9, "save_last": True}, ["epoch=0-step=3.ckpt", "last.ckpt"]),
        (
            {"every_n_train_steps": 2, "save_top_k": -1},
            ["epoch=0-step=2.ckpt", "epoch=0-step=3.ckpt"],
        ),
    ],
)
def test_the_last_step_has_one_whatever_the_cadence(
    settings: dict[str, Any], names: list[str], fit: Fit
) -> None:
    fit("cut", 3, **settings)
    assert sorted(file.name for file in Path("cut").iterdir() if file.exists()) == names


def test_where_a_metric_chooses_it_does(fit: Fit) -> None:
    fit("cut", 3, every_n_train_steps=2, monitor="val/loss")
    assert not Path("cut").exists() or not list(Path("cut").iterdir())
