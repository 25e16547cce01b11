"""Selection through the data module: scored or read from a file, drawn, logged and pictured."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from processes import be_one_of_two, free_port, wait_for
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wdl.config.paths import DataSource, InputPath, ModelSource
from wdl.data.score_store import ScoreStore
from wdl.data.score_table import ScoreTable
from wdl.data.selection_figure import selection_figure
from wdl.data.weak_driven import Selection, WeakDrivenDataModule
from wdl.data.weights import sampling_weights
from wdl.errors import UserError


def set_up(
    data: Path,
    strong: Path,
    weak: Path | None = None,
    cache: str = "runs/cache",
    devices: int = 1,
    **selection: Any,
) -> WeakDrivenDataModule:
    module = WeakDrivenDataModule(
        DataSource(data),
        ModelSource(strong),
        None if weak is None else ModelSource(weak),
        Selection(**selection),
        batch_size=8,
        val_fraction=0.2,
        cache=cache,
    )
    module.trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        logger=TensorBoardLogger("logs", name="", version=""),
        enable_checkpointing=False,
    )
    module.trainer.strategy.setup_environment()
    module.check_inputs()
    module.setup("fit")
    module.trainer.loggers[0].finalize("success")  # writes what is buffered
    return module


@pytest.fixture
def history(write_rows: Callable[..., Path]) -> Path:
    rng = np.random.default_rng(0)
    rows = [
        {"idx": n, **{f"entropy_{k}": float(h) for k, h in enumerate(rng.gamma(2, size=3))}}
        for n in range(40)
    ]
    return write_rows(rows, "history.jsonl")


def test_branches_are_scored(sums: Path, pair: tuple[Path, Path]) -> None:
    module = set_up(sums, *pair)
    tables = {
        file.parent.name: ScoreTable.read(file) for file in Path("runs").rglob("entropy.jsonl")
    }
    assert len(tables) == 2
    assert all(len(table.idx) == len(module.train_samples) for table in tables.values())
    events = EventAccumulator("logs")
    events.Reload()
    scalars = {tag: events.Scalars(tag)[0].value for tag in events.Tags()["scalars"]}
    mass = [scalars[f"selection/mass/{term}"] for term in ("weak", "decrease", "increase")]
    assert sum(mass) == pytest.approx(1)
    assert scalars["selection/draws"] == len(module.train_samples)
    assert (
        scalars["selection/unique"] + scalars["selection/duplicates"] == scalars["selection/draws"]
    )
    assert scalars["selection/unique_share"] == pytest.approx(
        scalars["selection/unique"] / scalars["selection/samples"]
    )
    assert events.Tags()["images"] == ["selection"]


def one_of_two(rank: int, port: int, data: Path, pair: tuple[Path, Path], finished: Path) -> None:
    """A process that looks late, when another run has just finished the scores."""
    be_one_of_two(rank, port)
    load = ScoreStore.load

    def late(store: ScoreStore) -> ScoreTable | None:
        store.file.parent.mkdir(parents=True, exist_ok=True)
        wait_for(lambda: list(store.file.parent.iterdir()))
        if not store.file.is_file():
            other_run = finished / store.file.parent.name
            shutil.copytree(other_run, store.file.parent, dirs_exist_ok=True)
        return load(store)

    if rank == 1:
        ScoreStore.load = late  # type: ignore[assignment,method-assign]
    set_up(data, *pair, cache="shared", devices=2)


def test_two_runs_that_share_scores_both_finish(sums: Path, pair: tuple[Path, Path]) -> None:
    set_up(sums, *pair, cache="other")
    processes = torch.multiprocessing.spawn(
        one_of_two, (free_port(), sums, pair, Path("other/entropy").resolve()), nprocs=2, join=False
    )
    try:
        wait_for(lambda: processes.join(timeout=1), 60)
    finally:
        for process in processes.processes:
            process.kill()


@pytest.mark.parametrize("scheme", ["normalised", "v2", "brownboost"])
def test_entropies_from_a_file_need_no_weak_branch(
    scheme: Any, sums: Path, pair: tuple[Path, Path], history: Path
) -> None:
    module = set_up(sums, pair[0], weights=scheme, entropies=InputPath(history), multiplier=200)
    idx = module.train_samples["idx"][:]
    expected, _ = sampling_weights(scheme, ScoreTable.read(history).rounds()[:, idx])
    assert module.plan is not None
    drawn = np.bincount(module.plan.drawn, minlength=len(idx)) / len(module.plan.drawn)
    assert np.abs(drawn - expected).max() < 5 * np.sqrt(0.25 / len(module.plan.drawn))
    assert not list(Path("runs").rglob("entropy.jsonl"))


def test_samples_without_entropy(
    sums: Path, pair: tuple[Path, Path], write_rows: Callable[..., Path]
) -> None:
    rows = [{"idx": n, "entropy_0": 1.0, "entropy_1": 0.5 + n} for n in range(20)]
    file = InputPath(write_rows(rows, "part.jsonl"))
    with pytest.raises(UserError, match=r"samples have no score, idx 2\d, "):
        set_up(sums, pair[0], entropies=file)
    module = set_up(sums, pair[0], entropies=file, missing_entropies="drop", multiplier=5)
    assert module.plan is not None
    drawn = set(np.array(module.train_samples["idx"][:])[module.plan.drawn].tolist())
    assert drawn and max(drawn) < 20


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ({"weights": "brownboost"}, "two branches are two; give data.selection.entropies"),
        ({"draw": "deduplicated", "tokens": 9}, "cannot reach any number of tokens"),
        ({"multiplier": 0}, "must be above 0"),
    ],
)
def test_selections_that_cannot_be(selection: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Selection(**selection)


def test_a_picture_of_samples_that_are_all_alike() -> None:
    figure = selection_figure(np.zeros((2, 9)), np.full(9, 1 / 9))
    figure.savefig("picture.png")
    assert Path("picture.png").stat().st_size > 10_000
