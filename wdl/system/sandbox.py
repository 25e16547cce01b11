"""Python programs that nobody has read, run apart from everything they could harm.

By bubblewrap a program has namespaces of its own (processes, network, mounts, IPC, host name), sees
the operating system's libraries, the interpreter and its packages read-only and nothing else, has
no capabilities, no environment, and an empty folder in memory, which is its home. It runs as a user
that owns nothing: with root's rights for this process, as one that exists for this run alone, or
else in a user namespace. Limits bind each process (address space, CPU, file size, open files), how
many there are, their memory together, what they write, and the time of all. When the first process
ends, or the time is over, the namespace goes with all that is in it.

Not covered: faults of the kernel itself, what a program learns by measuring time, and kernel memory
behind many empty files or unmapped shared memory, which lasts as long as the run. ``plain`` has
the limits, a clean environment and an empty folder, and protects from accidents only: such a
program can read and write what its user can, use the network, and leave processes behind.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from wdl.errors import UserError
from wdl.system.child import ChildFailure
from wdl.system.sandbox_run import Limits, Ran, Run

SandboxKind = Literal["bubblewrap", "plain"]
_PATHS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache")
_FIRST_USER = 1 << 30  # far from those that systems give to people
_REMEDY = (
    "install bubblewrap 0.8 or later and allow it to make namespaces, or, for answers that you "
    "trust like your own programs, --sandbox.kind plain"
)


@dataclass(frozen=True)
class SandboxOptions:
    """How programs that models have written are run.

    Args:
        kind: ``bubblewrap`` shuts them off from files, network and other processes; ``plain`` only
            limits them, and is for answers that you trust.
        seconds: Time for one program, or for one input of a program that reads inputs.
    """

    kind: SandboxKind = "bubblewrap"
    seconds: float = 10.0

    def __post_init__(self) -> None:
        if self.seconds <= 0:
            raise UserError(f"--sandbox.seconds {self.seconds:g}: it must be above 0")


class Sandbox:
    """Runs programs; safe to use from several threads."""

    def __init__(
        self,
        kind: SandboxKind = "bubblewrap",
        limits: Limits = Limits(),  # noqa: B008 (frozen)
    ) -> None:
        self.kind = kind
        self.limits = limits
        self._start = Path(__file__).with_name("sandbox_start.py").read_text(encoding="utf-8")

    def describe(self) -> dict[str, Any]:
        """Kind, limits and interpreter, for the record."""
        python = ".".join(map(str, sys.version_info[:3]))
        return {"sandbox": self.kind, "limits": asdict(self.limits), "python": python}

    def check(self) -> None:
        """Make sure that programs can be run.

        Raises:
            UserError: They cannot.
        """
        try:
            done = self.run("print('fine')")
        except ChildFailure as failure:
            raise UserError(f"programs cannot be run apart ({failure}); {_REMEDY}") from None
        if done.output != b"fine\n":
            why = done.errors.decode(errors="replace").strip().splitlines() or [done.stopped]
            raise UserError(f"programs cannot be run apart ({why[-1]}); {_REMEDY}")

    def run(self, program: str, stdin: bytes = b"", later: bytes = b"") -> Ran:
        """Run the text of a program as ``__main__``.

        Args:
            program: Its text.
            stdin: What it can read.
            later: What it can read from descriptor 4, from when it has written to descriptor 3.

        Raises:
            ChildFailure: It could not be started; that is not the program's fault.
        """
        text = program.encode("utf-8", "surrogatepass")
        with TemporaryDirectory(prefix="sandbox-") as folder, _pipes() as (mine, theirs):
            settings = {**asdict(self.limits), "fds": theirs, "path": _packages()}
            settings["user"] = _FIRST_USER + secrets.randbelow(_FIRST_USER) if self._sheds else None
            settings["bounds_processes"] = self.kind == "bubblewrap"
            command = [*self._wrapping(), _python(), "-I", "-S", "-B", "-c", self._start]
            try:
                process = subprocess.Popen(
                    [*command, json.dumps(settings)],
                    cwd=folder,
                    env={"HOME": folder, "PATH": "/usr/bin:/bin", **_ENVIRONMENT},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    pass_fds=theirs,
                    start_new_session=True,
                )
            except OSError as error:
                raise ChildFailure(f"{command[0]}: {error.strerror}") from None
            for descriptor in theirs:
                os.close(descriptor)
            theirs.clear()
            first = len(text).to_bytes(8, "big") + text
            run = Run(process, mine, self.limits, stdin, first, later)
            try:
                return run.finish()
            finally:
                run.end()

    @property
    def _sheds(self) -> bool:
        """Whether the program must give up root's rights itself."""
        return self.kind == "bubblewrap" and os.geteuid() == 0

    def _wrapping(self) -> list[str]:
        if self.kind == "plain":
            return []
        bwrap = shutil.which("bwrap")
        if bwrap is None:
            raise ChildFailure("there is no bwrap")
        # The number of processes counts per user, and does not bind root, by whatever name: hence
        # no user namespace for root, whose only other user would be root again.
        apart = ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
        apart += ["--unshare-cgroup-try", "--cap-drop", "ALL"]
        if self._sheds:
            apart += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        else:
            apart += ["--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"]
        visible = list(dict.fromkeys([*_PATHS, sys.base_prefix, *_packages()]))
        above = {str(folder) for path in visible for folder in Path(path).parents}
        shown = [part for one in sorted(above) for part in ("--perms", "0755", "--dir", one)]
        for path in visible:
            if path in _PATHS and os.path.islink(path):
                shown += ["--symlink", os.readlink(path), path]
            else:
                shown += ["--ro-bind-try", path, path]
        own = ["--perms", "1777", "--size", str(self.limits.files), "--tmpfs"]
        # before what is shown, which may lie in /tmp
        fresh = ["--proc", "/proc", "--dev", "/dev", *own, "/dev/shm", *own, "/tmp"]
        return [
            *(bwrap, "--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv"),
            *apart,
            *fresh,
            *shown,
            *("--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/tmp"),
            *(part for pair in _ENVIRONMENT.items() for part in ("--setenv", *pair)),
            *("--setenv", "HOME", "/tmp", "--setenv", "PATH", "/usr/bin:/bin", "--"),
        ]


# One thread each: as many programs run as there are cores.
_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    **{"LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "MPLBACKEND": "agg"},
}


@contextmanager
def _pipes() -> Iterator[tuple[list[int], list[int]]]:
    """Two pipes, one each way: our ends (to read, to write), and the program's (to write, read)."""
    report, theirs_out = os.pipe()
    theirs_in, told = os.pipe()
    mine, theirs = [report, told], [theirs_out, theirs_in]
    try:
        yield mine, theirs
    finally:
        for descriptor in (*mine, *theirs):
            os.close(descriptor)


def _python() -> str:
    """The interpreter itself, not the link to it in a virtual environment."""
    return os.path.realpath(sys.executable)


def _packages() -> list[str]:
    """Folders of installed packages."""
    return list(dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")))
