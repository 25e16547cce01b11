"""Checkpoints are pickles, and unpickling runs whatever code a file names: look before opening.

Lightning and DeepSpeed open their checkpoints without restriction, so each file's list of names is
read first, without running anything, and a file that names more than a checkpoint needs is refused.
"""

from pathlib import Path
from pickle import UnpicklingError

from torch.serialization import get_unsafe_globals_in_checkpoint

from wdl.errors import UserError

DEEPSPEED_GLOBALS = frozenset(
    {
        "deepspeed.runtime.fp16.loss_scaler.LossScaler",
        "deepspeed.runtime.zero.config.ZeroStageEnum",
        "deepspeed.utils.tensor_fragment.fragment_address",
    }
)
"""What DeepSpeed's files name beyond the tensors and containers that torch itself allows."""


def refuse_foreign_code(files: list[Path]) -> None:
    """Make sure that opening ``files`` builds tensors and containers, and runs nothing else.

    Raises:
        UserError: Names every file that would do more, or that is no checkpoint at all.
    """
    faults = []
    for file in files:
        try:
            foreign = set(get_unsafe_globals_in_checkpoint(file)) - DEEPSPEED_GLOBALS
        except (ValueError, EOFError, RuntimeError, UnpicklingError) as error:
            faults.append(f"{file}: this is no checkpoint of torch ({_first_line(error)})")
            continue
        if foreign:
            faults.append(
                f"{file}: opening it would run {', '.join(sorted(foreign))}, which no checkpoint "
                "of this project contains; do not use the file"
            )
    if faults:
        raise UserError(*faults)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
