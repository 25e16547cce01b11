"""The notebooks run on what a fit leaves behind."""

from pathlib import Path

import lightning.pytorch as pl
import nbformat
import pytest
from conftest import REPOSITORY, every_sample_once
from nbclient import NotebookClient
from wdl.callbacks.dynamics import BranchLogger

from wdl.config.paths import ModelSource
from wdl.training.weak_driven import Dynamics, WeakDrivenModule


def fit(data: Path, pair: tuple[Path, Path], steps: int, resume: Path | None = None) -> None:
    """A version of a run in which each step recorded everything, and its checkpoint."""
    strong, weak = map(ModelSource, pair)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=BranchLogger("runs", "joint"),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = WeakDrivenModule(strong, weak, dynamics=Dynamics("full", 1))
    trainer.fit(module, every_sample_once(data, strong, weak), ckpt_path=resume)
    trainer.save_checkpoint("last.ckpt")


@pytest.mark.parametrize("resumed", [False, True])
def test_dynamics(
    resumed: bool, sums: Path, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run in one piece, and of one that was stopped and went on, twice with nothing to do."""
    fit(sums, pair, 2 if resumed else 4)
    for _ in range(2 if resumed else 0):
        fit(sums, pair, 4, Path("last.ckpt"))
    monkeypatch.setenv("WDL_RUN", str(Path("runs/joint").absolute()))
    monkeypatch.setenv("IPYTHONDIR", str(Path.cwd()))
    notebook = nbformat.read(REPOSITORY / "notebooks" / "dynamics.ipynb", as_version=4)
    shown = "print(list(next(curve('margin', 'weak'))), list(next(curve('kl', 'mixed_strong'))))"
    notebook.cells.append(nbformat.v4.new_code_cell(shown))
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert outputs[-1]["text"] == "[0, 1, 2, 3] [0, 1, 2, 3]\n"
