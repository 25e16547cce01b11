"""The notebooks run on what a fit leaves behind."""

from pathlib import Path

import lightning.pytorch as pl
import nbformat
import pytest
from conftest import REPOSITORY
from lightning.pytorch.loggers import TensorBoardLogger
from nbclient import NotebookClient

from wdl.config.paths import DataSource, ModelSource
from wdl.data.weak_driven import Selection, WeakDrivenDataModule
from wdl.training.deepspeed import DeepSpeed
from wdl.training.weak_driven import Dynamics, WeakDrivenModule


@pytest.fixture
def run(sums: Path, pair: tuple[Path, Path]) -> str:
    """Folder of a fit of five steps, each of which recorded everything."""
    strong, weak = map(ModelSource, pair)
    trainer = pl.Trainer(
        strategy=DeepSpeed(stage=1),
        accelerator="cpu",
        max_epochs=1,
        logger=TensorBoardLogger("runs", default_hp_metric=False),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = WeakDrivenDataModule(
        DataSource(sums), strong, weak, Selection(weights="uniform"), batch_size=8
    )
    trainer.fit(WeakDrivenModule(strong, weak, dynamics=Dynamics("full", 1)), data)
    assert trainer.log_dir is not None
    return str(Path(trainer.log_dir).absolute())


def test_dynamics(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WDL_RUN", run)
    monkeypatch.setenv("IPYTHONDIR", str(Path.cwd()))
    notebook = nbformat.read(REPOSITORY / "notebooks" / "dynamics.ipynb", as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    drawn = [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert len(drawn) == 3
