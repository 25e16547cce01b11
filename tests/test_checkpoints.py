"""Which checkpoint a run goes on from: the newest that is complete."""

import os
from pathlib import Path

from wdl.checkpoints import newest_checkpoint


def write(run: Path, name: str, seconds: int, folder: bool = True, complete: bool = True) -> Path:
    checkpoint = run / name
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        (checkpoint / "checkpoint").mkdir(parents=True)
    mark = checkpoint / "latest" if folder else checkpoint
    if complete:
        mark.touch()
        os.utime(mark, (seconds, seconds))
    return checkpoint


def test_no_run_no_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None


def test_the_newest_of_all_versions(tmp_path: Path) -> None:
    write(tmp_path, "version_9/checkpoints/a.ckpt", 100)
    newest = write(tmp_path, "version_10/checkpoints/b.ckpt", 300)
    write(tmp_path, "version_11/checkpoints/c.ckpt", 200, folder=False)
    assert newest_checkpoint(tmp_path) == newest


def test_a_folder_that_was_never_finished_does_not_count(tmp_path: Path) -> None:
    whole = write(tmp_path, "version_0/checkpoints/a.ckpt", 100)
    write(tmp_path, "version_0/checkpoints/b.ckpt", 200, complete=False)
    assert newest_checkpoint(tmp_path) == whole
