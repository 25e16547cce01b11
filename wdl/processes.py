"""Processes that belong together: who ends with whom, and who is one rank of several."""

import ctypes
import os
import re
import signal
import sys

# What tells a process that it is one rank of several: of Lightning's, torchrun's and SLURM's.
_LAUNCHER = re.compile(
    r"(LOCAL_|NODE_|GROUP_|ROLE_)?RANK|(LOCAL_|GROUP_|ROLE_)?WORLD_SIZE|ROLE_NAME"
    r"|MASTER_ADDR|MASTER_PORT|TORCHELASTIC_.*|SLURM_.*"
)
_PARENT = "WDL_PARENT"


def environment_without_ranks() -> dict[str, str]:
    """This process's environment, less what makes it one rank of several."""
    return {name: value for name, value in os.environ.items() if not _LAUNCHER.fullmatch(name)}


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
    die_with_parent()
    if os.environ.get(_PARENT, str(os.getppid())) != str(os.getppid()):
        raise SystemExit(f"process {os.environ['LOCAL_RANK']}: the first process is gone")
