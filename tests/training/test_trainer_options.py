"""Options of Lightning's trainer through the real command: each works, or is refused by name."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CONFIGS

from wdl.errors import UserError
from wdl.fit import run

OWN_CLASS = """
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger
class Silent(CSVLogger):
    def __init__(self, api_key: str | None = None) -> None:
        raise RuntimeError("no login")
class Late(CSVLogger):
    @property
    def experiment(self):
        raise OSError("no network")
class Refuses(Callback):
    def __init__(self, n: int = 1) -> None:
        raise RuntimeError("n must be 2\\nand more")
"""


@pytest.fixture
def flags(sums: Path, pair: tuple[Path, Path]) -> list[str]:
    """Of two epochs of 4 steps, in a folder of their own."""
    settings = {
        "model.strong": pair[0],
        "model.weak": pair[1],
        "data.path": sums,
        "data.batch_size": 8,
        "data.micro_batch_size": 4,
        "data.val_fraction": 0.2,
        "data.selection.weights": "uniform",
        "data.selection.draw": "without_replacement",
        "evaluation.benchmark": "null",
        "evaluation.sft_control": "false",
    }
    given = [f"--{name}={value}" for name, value in settings.items()]
    return ["--config", str(CONFIGS / "joint.yaml"), *given]


def fit(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wdl", "fit", *options]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr[-3000:]
    return child


EARLY = ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--trainer.accumulate_grad_batches=2"], "trainer.accumulate_grad_batches: "),
        (["--trainer.barebones=true"], "trainer.barebones: "),
        (["--trainer.default_root_dir=elsewhere"], "trainer.default_root_dir: .* set runs and"),
        (["--trainer.limit_train_batches=1"], "trainer.limit_train_batches: .*trainer.max_steps"),
        (["--trainer.overfit_batches=2"], "trainer.overfit_batches: "),
        (["--trainer.logger=false"], "trainer.logger: .* set tensorboard to false"),
        (["--trainer.logger=own.Refuses"], "trainer.logger: "),
        (["--trainer.logger=own.Silent"], "trainer.logger: Silent: no login"),
        (["--trainer.logger+=own.Silent"], "trainer.logger: Silent: no login"),
        (["--trainer.logger=own.Silent", "--trainer.logger.api_key=s3"], "api_key: would stand in"),
        (
            ["--trainer.logger+=CSVLogger", "--trainer.logger+=CSVLogger"],
            "trainer.logger: 2 loggers write to runs/joint/version_0/csv; give each a version",
        ),
        (["--trainer.max_epochs=-1"], "trainer.max_epochs: "),
        (
            ["--trainer.strategy=auto", "--trainer.precision=bf16-true"],
            "trainer.precision: bf16-true .*DeepSpeed.* or bf16-mixed",
        ),
        (["--trainer.strategy=deepspeed_stage_2"], "trainer.strategy: DeepSpeedStrategy"),
        (["--trainer.callbacks+=BatchSizeFinder"], "trainer.callbacks: BatchSizeFinder"),
        ([*EARLY, "--data.val_fraction=0"], "EarlyStopping watches val/loss, and nothing is val"),
        ([*EARLY, "--trainer.limit_val_batches=0"], "EarlyStopping watches val/loss, and nothing"),
        ([*EARLY, "--trainer.callbacks.mode=up"], r"EarlyStopping: `mode` can be"),
        (["--trainer.callbacks+=own.Refuses"], "^own.Refuses: n must be 2$"),
        (["--model.optimizer.init_args.lr=-1"], "^model.optimizer: Invalid learning rate: -1.0$"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_refused_before_anything_is_read(
    options: list[str],
    fault: str,
    flags: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "own.py").write_text(OWN_CLASS)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=fault) as error:
        run(["fit", *flags, *options])
    assert len(error.value.lines()) == 1 and "\n" not in error.value.lines()[0]
    assert not Path("runs").exists()


def test_a_dry_run_makes_whole_steps_and_leaves_nothing(flags: list[str]) -> None:
    printed = fit(*flags, "--trainer.fast_dev_run=2").stderr
    assert "`Trainer.fit` stopped: `max_steps=2` reached" in printed
    assert not Path("runs", "joint").exists()


def test_what_works_as_in_any_run_of_lightning(flags: list[str]) -> None:
    fit(
        *flags,
        *("--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs"),
        "--trainer.logger.name=mine",
        *EARLY,
        "--trainer.check_val_every_n_epoch=2",  # so that the first epoch ends without a metric
        "--trainer.num_sanity_val_steps=1",
        "--trainer.enable_checkpointing=false",
        "--trainer.profiler=simple",
    )
    (version,) = Path("runs/joint").glob("version_*")
    assert json.loads((version / "results.json").read_text())["steps"] > 0
    assert not (version / "checkpoints").exists() and (version / "config.yaml").exists()
    (metrics,) = Path("logs/mine").rglob("metrics.csv")
    assert list(version.glob("events.*"))
    header = metrics.read_text().splitlines()[0].split(",")
    assert {"train/loss", "val/loss", "dynamics/margin/weak", "selection/draws"} <= set(header)
    assert "lam: 0.5" in metrics.with_name("hparams.yaml").read_text()


def test_a_logger_that_cannot_start_ends_the_run_before_anything_is_loaded(
    flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own.py").write_text(OWN_CLASS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    with pytest.raises(UserError, match=r"^trainer.logger: Late: no network$"):
        run(["fit", *flags, "--trainer.strategy=auto", "--trainer.logger+=own.Late"])
    assert not list(Path("runs").glob("joint/*"))


@pytest.mark.parametrize(
    ("option", "fault"),
    [
        (["--trainer.val_check_interval=200"], r"trainer: `val_check_interval` \(200\) must be"),
        (
            [EARLY[0], "--trainer.callbacks.monitor=val_loss"],
            "trainer: Early stopping conditioned on metric `val_loss` which is not available",
        ),
    ],
)
def test_what_shows_with_the_data_is_one_line_too(
    option: list[str], fault: str, flags: list[str]
) -> None:
    options = ["--trainer.strategy=auto", "--trainer.max_epochs=1"]
    with pytest.raises(UserError, match=fault):
        run(["fit", *flags, *options, *option])
