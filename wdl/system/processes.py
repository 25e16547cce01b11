"""Processes that belong together: who ends with whom, and who is one rank of several."""

import ctypes
import os
import re
import signal
import sys

from wdl.errors import UserError
from wdl.system.outcome import VARIABLE

# What tells a process that it is one rank of several: of Lightning's, torchrun's and SLURM's.
_LAUNCHER = re.compile(
    r"(LOCAL_|NODE_|GROUP_|ROLE_)?RANK|(LOCAL_|GROUP_|ROLE_)?WORLD_SIZE|ROLE_NAME"
    r"|MASTER_ADDR|MASTER_PORT|TORCHELASTIC_.*|SLURM_.*"
)
_NUMBERS = re.compile(
    r"(LOCAL_|NODE_|GROUP_)?RANK|(LOCAL_)?WORLD_SIZE|MASTER_PORT"
    r"|SLURM_(PROCID|LOCALID|NODEID|NTASKS|NNODES)"
)
_TOGETHER = {
    "TORCHELASTIC_RUN_ID": ("RANK", "LOCAL_RANK", "WORLD_SIZE"),
    "SLURM_NTASKS": ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID"),
}
"""What a launcher always sets together; Lightning looks for the first to tell whose rank it is."""
_PARENT = "WDL_PARENT"
_ENDS_WITH_PARENT = "WDL_ENDS_WITH_PARENT"


def rank() -> int:
    """Number of this process among all, before there is a process group to ask."""
    given = (os.environ.get(name, "") for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"))
    return next((int(number) for number in given if number.isdecimal()), 0)


def check_launcher() -> None:
    """Look at what torchrun or SLURM may have set, which libraries take as it is.

    Raises:
        UserError: A variable that is to be a number is none, or a launcher's are not all there.
    """
    mend = "start with torchrun or srun, which set it, or unset it"
    for name, text in sorted(os.environ.items()):
        if _NUMBERS.fullmatch(name) and not text.isdecimal():
            raise UserError(f"the environment's {name} is {text!r} and no whole number; {mend}")
    if int(os.environ.get("MASTER_PORT", 0)) >= 2**16:
        raise UserError(f"the environment's MASTER_PORT is no port, which are below 65536; {mend}")
    if os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive"):  # whose shell is no rank
        return
    for name, others in _TOGETHER.items():
        missing = [other for other in others if other not in os.environ]
        if name in os.environ and missing:
            raise UserError(f"the environment has {name} but no {', '.join(missing)}; {mend}")


def environment_of_child() -> dict[str, str]:
    """For a ``wdl`` command that is neither rank nor stage of this process's, but ends with it."""
    own = {name: value for name, value in os.environ.items() if not _LAUNCHER.fullmatch(name)}
    own.pop(VARIABLE, None)
    return {**own, _ENDS_WITH_PARENT: "1"}


def end_with_parent_if_told() -> None:
    """Called as ``wdl`` starts, by whomever; see :func:`environment_of_child`."""
    if os.environ.pop(_ENDS_WITH_PARENT, None):
        die_with_parent()


def die_with_parent(by: signal.Signals = signal.SIGKILL) -> None:
    """Called in a child: get a signal when the parent dies, even in the middle of a computation."""
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, by)


def stay_with_first_rank() -> None:
    """Called as a rank starts: end with the process that started it, even if that is gone already.

    Without it, a rank could wait in a collective for ever for one that was killed.
    """
    if "LOCAL_RANK" not in os.environ:
        os.environ[_PARENT] = str(os.getpid())  # for the ranks that this process will start
        return
    # torchrun ends on a signal of its own, and gives its processes time to save
    under_torchrun = "TORCHELASTIC_RUN_ID" in os.environ
    die_with_parent(signal.SIGTERM if under_torchrun else signal.SIGKILL)
    if os.environ.get(_PARENT, str(os.getppid())) != str(os.getppid()):
        raise SystemExit(f"process {os.environ['LOCAL_RANK']}: the first process is gone")
