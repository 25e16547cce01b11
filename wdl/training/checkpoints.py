"""Checkpoints on disk: which are complete, and what is in them.

Most strategies write a file. DeepSpeed writes a folder with files of every process; it gets a
manifest of these files as the last of them, and its name only then, so that half of a checkpoint,
or of a copy of one, is never taken for a whole one.
"""

import contextlib
import io
import json
import re
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from wdl.errors import UserError
from wdl.system.files import write_json
from wdl.training.pickles import refuse_foreign_code

TAG = "checkpoint"
"""Folder that DeepSpeed's files stand in, inside a checkpoint."""
MANIFEST = "manifest.json"
_LATEST = "latest"
"""File in which DeepSpeed looks for the name of that folder."""


@dataclass(frozen=True)
class Manifest:
    """What a DeepSpeed checkpoint consists of.

    Args:
        stage: ZeRO stage that wrote it.
        world_size: Number of processes that wrote it.
        files: Bytes of each file, by its path inside the checkpoint.
    """

    stage: int
    world_size: int
    files: dict[str, int]

    @classmethod
    def read(cls, checkpoint: Path) -> "Manifest | None":
        """The manifest of a checkpoint folder, if it has a readable one."""
        try:
            return cls(**json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None


def files_of(checkpoint: Path, rank: int) -> dict[str, int]:
    """Bytes of each file that process ``rank`` has written, by its path inside the checkpoint."""
    return {
        str(file.relative_to(checkpoint)): file.stat().st_size
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file() and file.name != MANIFEST and _writer(file) == rank
    }


def _writer(file: Path) -> int:
    """Rank of the process that wrote a file of DeepSpeed: in its name, or the first."""
    named = re.search(r"pp_rank_(\d+)_", file.name)
    return int(named[1]) if named else 0


def write_manifest(checkpoint: Path, manifest: Manifest) -> None:
    """Mark ``checkpoint`` as complete."""
    write_json(checkpoint / MANIFEST, asdict(manifest))


def defect(checkpoint: Path) -> str | None:
    """What of a checkpoint is missing or cut short; None if it is complete."""
    if checkpoint.is_file():
        # a zip file's directory is at its end
        return None if zipfile.is_zipfile(checkpoint) else "cut short, or something else"
    manifest = Manifest.read(checkpoint)
    if manifest is None:
        return f"there is no readable {MANIFEST} in it, which is written last"
    for name, size in {_LATEST: len(TAG), **manifest.files}.items():
        file = checkpoint / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None


def written_at(checkpoint: Path) -> int:
    """When a checkpoint was completed, in nanoseconds."""
    mark = checkpoint / MANIFEST
    return (mark if mark.is_file() else checkpoint).stat().st_mtime_ns


def check_checkpoint(checkpoint: Path) -> None:
    """Refuse what is no complete checkpoint, or would run code when it is opened.

    Raises:
        UserError: Says what is wrong with it.
    """
    if not checkpoint.exists():
        raise UserError(f"ckpt: there is no checkpoint {checkpoint}; give the path of one")
    if (checkpoint / "checkpoints").is_dir():
        raise UserError(f"{checkpoint}: is a run's folder; give one of {checkpoint}/checkpoints/")
    if fault := defect(checkpoint):
        raise UserError(f"{checkpoint}: is no complete checkpoint ({fault}); use an earlier one")
    if checkpoint.is_file():
        refuse_foreign_code([checkpoint])
        return
    # what is opened must be what is looked at
    if any(path.is_symlink() for path in checkpoint.rglob("*")):
        raise UserError(f"{checkpoint}: has links in it, which no checkpoint has; do not use it")
    if (checkpoint / _LATEST).read_text(encoding="utf-8") != TAG:
        raise UserError(f"{checkpoint / _LATEST}: names another folder than {TAG}; do not use it")
    refuse_foreign_code(sorted((checkpoint / TAG).iterdir()))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What Lightning and the parts of this project stored beside weights and optimizer.

    Raises:
        UserError: It is not complete, or would run code when opened.
    """
    check_checkpoint(checkpoint)
    return _load(_state_file(checkpoint))


def read_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """All weights, whole, by whichever strategy, stage and number of processes they were written.

    They are on the CPU, in the dtype that they trained in; those of a file and of ZeRO stages 1
    and 2 stay on disk until they are used.

    Raises:
        UserError: It is not complete, or would run code when opened.
    """
    check_checkpoint(checkpoint)
    state = _load(_state_file(checkpoint))
    manifest = Manifest.read(checkpoint)
    if manifest is None:
        return state["state_dict"]
    return state["module"] if manifest.stage < 3 else _joined_shards(checkpoint, state)


def _state_file(checkpoint: Path) -> Path:
    if checkpoint.is_file():
        return checkpoint
    return min((checkpoint / TAG).glob("*_model_states.pt"))


def _load(file: Path) -> dict[str, Any]:
    # unrestricted, since the names in it were checked
    return torch.load(file, map_location="cpu", mmap=True, weights_only=False)


def _joined_shards(checkpoint: Path, state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of ZeRO stage 3, from the float32 copies that the processes share."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with contextlib.redirect_stdout(io.StringIO()):
        joined = get_fp32_state_dict_from_zero_checkpoint(
            str(checkpoint), TAG, exclude_frozen_parameters=True, lazy_mode=True
        )
    # rounded as DeepSpeed rounds them after every step, these are the weights in use
    dtype = getattr(torch, state["made"]["dtype"])
    return {name: shards.contiguous().to(dtype) for name, shards in joined.items()}
