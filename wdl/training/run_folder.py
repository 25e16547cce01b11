"""Where a run writes: the one place that knows the names.

RUNS/NAME/version_N/            one start of the run; a resumed run is a new one
strong/                     the exported model
exports/step=S/, exports/best-step=S/
checkpoints/*.ckpt
evaluation/, evaluation/step=S/
results.json, config.yaml, hparams.yaml
events.out.*, dynamics/     for TensorBoard
RUNS/NAME/latest/               links to what the newest start has written, but for the events:
TensorBoard follows links, and would show the run twice
"""

import json
import os
import shutil
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_warn

from wdl.system.files import replace_folder
from wdl.training.checkpoints import defect, written_at

_VERSIONS = "version_*"
_LATEST = "latest"
_LINKED = (
    *("strong", "exports", "checkpoints", "evaluation"),
    *("results.json", "config.yaml", "hparams.yaml"),
)


class RunFolder:
    """The folder of one start of a run.

    Args:
        path: RUNS/NAME/version_N.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.strong = path / "strong"
        self.checkpoints = path / "checkpoints"
        self.evaluation = path / "evaluation"
        self.results = path / "results.json"
        self.config = path / "config.yaml"

    @classmethod
    def of(cls, trainer: pl.Trainer) -> "RunFolder":
        """That of a fit; every process must call this."""
        assert trainer.log_dir is not None
        return cls(Path(trainer.log_dir))

    @classmethod
    def of_first(cls, trainer: pl.Trainer) -> "RunFolder":
        """That of a fit, for the first process alone."""
        assert isinstance(trainer.logger, TensorBoardLogger)  # trainer.log_dir waits for all
        return cls(Path(trainer.logger.log_dir))

    @classmethod
    def latest(cls, runs: Path, name: str) -> "RunFolder":
        """That of the newest start of a run, by its links."""
        links = runs / name / _LATEST
        newest = None if links.is_dir() else newest_start(runs / name)
        return newest or cls(links)

    def export(self, step: int, best: bool = False) -> Path:
        """Where the strong branch is exported on the way."""
        return self.path / "exports" / f"{'best-' if best else ''}step={step}"

    def evaluation_at(self, step: int) -> Path:
        """Where an evaluation on the way is filed."""
        return self.evaluation / f"step={step}"

    def is_done(self, config: str, data_sha256: str) -> bool:
        """Whether this start has come to its end, with this configuration and these data."""
        if not (self.strong.is_dir() and self.results.is_file() and self.config.is_file()):
            return False
        trained_on = json.loads(self.results.read_text()).get("data_sha256")
        return trained_on == data_sha256 and self.config.read_text() == config

    def become_latest(self) -> None:
        """Let ``latest`` hold links to what this start writes, now or later.

        On a disk without symbolic links there is none, and a warning says where the start is.
        """
        latest = self.path.with_name(_LATEST)
        links = self.path.with_name(f".{_LATEST}.{os.getpid()}.partial")
        shutil.rmtree(links, ignore_errors=True)
        links.mkdir()
        try:
            for name in _LINKED:
                (links / name).symlink_to(Path("..", self.path.name, name))
        except OSError as error:
            links.rmdir()
            rank_zero_warn(
                f"{latest}: this disk takes no symbolic links ({error.strerror}); what this start "
                f"of the run writes is in {self.path}"
            )
            return
        if latest.is_symlink():
            latest.unlink()
        replace_folder(links, latest)


def newest_start(run: Path) -> RunFolder | None:
    """The last start of a run (RUNS/NAME), or None."""
    found = {int(path.name.rpartition("_")[2]): path for path in run.glob("version_[0-9]*")}
    return RunFolder(found[max(found)]) if found else None


def newest_checkpoint(run: Path) -> Path | None:
    """The last complete checkpoint among all starts of a run, or None.

    Args:
        run: RUNS/NAME.
    """
    found = filter(Path.exists, run.glob(f"{_VERSIONS}/checkpoints/**/*.ckpt"))
    for checkpoint in sorted(found, key=written_at, reverse=True):
        fault = defect(checkpoint)
        if fault is None:
            return checkpoint
        rank_zero_warn(f"{checkpoint} is not complete ({fault}): looking for an earlier one")
    return None


def remove_partial(run: Path) -> None:
    """Remove what a killed start of a run was writing, which may be large."""
    for pattern in (f"{_VERSIONS}/.*.partial", f"{_VERSIONS}/*/**/.*.partial"):
        for partial in run.glob(pattern):
            shutil.rmtree(partial, ignore_errors=True)
