"""Files that are complete or not there: what kills leave behind goes, what others write stays."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wdl.system.files import new_folder, write_text

WRITERS = {
    "file": """
def lines():
    yield "half"
    print("writing", flush=True)
    time.sleep(100)
write_lines(Path("result[1]"), lines())
""",
    "folder": """
with new_folder(Path("result[1]")) as folder:
    (folder / "half").touch()
    print("writing", flush=True)
    time.sleep(100)
""",
}
IMPORTS = """
import time
from pathlib import Path
from wdl.system.files import new_folder, write_lines
"""


def make(kind: str) -> None:
    if kind == "file":
        write_text(Path("result[1]"), "whole")
        return
    with new_folder(Path("result[1]")) as folder:
        (folder / "whole").touch()


@pytest.mark.parametrize("kind", WRITERS)
def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", IMPORTS + WRITERS[kind]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
        partial = f".result[1].{writer.pid}.partial"
        make(kind)
        assert sorted(os.listdir()) == [partial, "result[1]"]
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    assert sorted(os.listdir()) == [partial, "result[1]"]
    if kind == "folder":
        os.rename("result[1]", "before")
    make(kind)
    assert partial not in os.listdir()


def test_a_folder_left_by_a_namesake_does_not_stand_in_the_way_where_nothing_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In containers process numbers come again, and some network disks know no locks."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / f".result.{os.getpid()}.partial").mkdir()
    with new_folder(tmp_path / "result") as folder:
        (folder / "whole").touch()
    assert os.listdir(tmp_path) == ["result"]
