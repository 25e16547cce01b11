"""What ``wdl validate`` prints, of each method: every number once, where it is looked for."""

from collections.abc import Callable
from pathlib import Path

import lightning.pytorch as pl
import pytest
from conftest import every_sample_once
from torch import Tensor
from wdl.callbacks.screen import ValidationTable

from wdl.config.paths import DataSource, ModelSource
from wdl.data.batches import Batch
from wdl.data.planned import PlannedDataModule
from wdl.data.preference import PreferenceDataModule
from wdl.losses.preference import Form, Preference
from wdl.training.pair import Pair
from wdl.training.preference import PreferenceModule
from wdl.training.weak_driven import Dynamics, WeakDrivenModule

LABEL = 31  # characters of the first column, with the margin
Tables = dict[str, dict[str, list[str]]]
"""By title; of each row its cells, those of the head under the name ``""``."""


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> Callable[[Pair, PlannedDataModule], Tables]:
    """A function that validates and reads the tables, with the names of the metrics in them."""

    def show(module: Pair, data: PlannedDataModule) -> Tables:
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            callbacks=[ValidationTable()],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.validate(module, data, verbose=False)
        names: dict[str, list[str]] = {}
        for name, value in trainer.callback_metrics.items():
            number = value.item()
            names.setdefault("none-seen" if number != number else f"{number:#.4g}", []).append(name)
        tables, title = {}, ""
        lines = capsys.readouterr().out.replace("none seen", "none-seen").splitlines()
        assert max(map(len, lines)) <= 80
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            label, cells = line[:LABEL].strip(), line[LABEL:].split()
            if after.strip().startswith("─"):
                title = label
                tables[title] = {"": cells}
            elif title and cells and not cells[-1].startswith("─"):
                # of equal numbers any name will do, but each once
                tables[title][label] = [names[cell].pop() for cell in cells]
        assert not any(names.values())
        return tables

    return show


def test_joint_training(shown: Callable[..., Tables], sums: Path, pair: tuple[Path, Path]) -> None:
    strong, weak = map(ModelSource, pair)
    tables = shown(WeakDrivenModule(strong, weak), every_sample_once(sums, strong, weak))
    assert list(tables) == ["per completion token", "also", "besides"]
    first = tables["per completion token"]
    assert list(first) == ["", "loss", "entropy", "margin", "p target", "saturation"]
    assert first[""] == ["weak", "strong", "mixed"]
    assert first["loss"] == ["val/weak_loss", "val/strong_loss", "val/loss"]
    assert first["margin"] == [f"val/dynamics/margin/{branch}" for branch in first[""]]
    assert tables["besides"]["hard negatives, mass"] == ["val/dynamics/hard_negatives/mass"]


def test_plain_fine_tuning(
    shown: Callable[..., Tables], sums: Path, make_branch: Callable[..., Path]
) -> None:
    strong = ModelSource(make_branch(seed=5))
    module = WeakDrivenModule(strong, lam=0.5, dynamics=Dynamics("off"))
    (table,) = shown(module, every_sample_once(sums, strong)).items()
    losses = ["val/strong_loss", "val/loss"]
    assert table == ("per completion token", {"": ["strong", "mixed"], "loss": losses})


@pytest.mark.parametrize("form", ["sigmoid", "simpo"])
def test_preferences(
    form: Form,
    shown: Callable[..., Tables],
    write_rows: Callable[..., Path],
    pair: tuple[Path, Path],
) -> None:
    rows = [{"prompt": f"{n}", "chosen": f"{n}", "rejected": f"{n}!{n}"} for n in range(20)]
    strong, weak = map(ModelSource, pair)
    against = weak if form == "sigmoid" else None
    module = PreferenceModule(strong, against, objective=Preference(form, nll=0.5))
    data = PreferenceDataModule(
        DataSource(write_rows(rows)), strong, against, module.stored_reference, val_fraction=0.4
    )
    tables = shown(module, data)
    assert list(tables) == ["mean of all pairs", "besides"]
    sides, others = tables.values()
    assert sides == {
        "": ["chosen", "rejected"],
        "rewards": ["val/rewards/chosen", "val/rewards/rejected"],
        "logps": ["val/logps/chosen", "val/logps/rejected"],
    }
    assert others["val/loss"] == ["val/loss"]
    assert others["rewards, margins"] == ["val/rewards/margins"]
    assert ("val/displacement" in others) == (form == "sigmoid")


def test_a_method_of_ones_own(
    shown: Callable[..., Tables], sums: Path, make_branch: Callable[..., Path]
) -> None:
    class Own(Pair):
        def loss(self, batch: Batch) -> Tensor:
            return self.hidden("strong", batch)[0].square().mean()

    strong = ModelSource(make_branch(seed=5))
    tables = shown(Own(strong), every_sample_once(sums, strong))
    assert tables == {"besides": {"": ["value"], "val/loss": ["val/loss"]}}
