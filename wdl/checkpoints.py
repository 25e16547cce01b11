"""Finding the checkpoint that a killed run goes on from."""

from pathlib import Path


def newest_checkpoint(runs: Path) -> Path | None:
    """The last complete checkpoint among all versions of a run, or None.

    Args:
        runs: Folder of a named run, which holds ``version_N/checkpoints/``.
    """
    complete = {
        mark.stat().st_mtime_ns: checkpoint
        for checkpoint in runs.glob("version_*/checkpoints/*.ckpt")
        if (mark := _completion_mark(checkpoint)).is_file()
    }
    return complete[max(complete)] if complete else None


def _completion_mark(checkpoint: Path) -> Path:
    """What is written last: the file itself, or the file that DeepSpeed ends a folder with."""
    return checkpoint / "latest" if checkpoint.is_dir() else checkpoint
