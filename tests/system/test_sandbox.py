"""Hostile programs, each contained: none reaches anything, none outlives its run."""

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY

from wdl.errors import UserError
from wdl.system.sandbox import Sandbox
from wdl.system.sandbox_run import Limits, Ran

LIMITS = Limits(seconds=1.5, memory=400 << 20, output=1 << 16, processes=12, files=2 << 20)
LEFT = "left-by-a-hostile-program"

# Each must print "out" if it gets out; {...} are filled in.
HOSTILE = {
    "fork bomb": "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
    "endless loop": "while True: pass",
    "sleep": "import time\ntime.sleep(60)",
    "memory": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "memory of many": "import os, time\nfor _ in range(8):\n if not os.fork():\n"
    "  x = bytearray(200 << 20)\n  for i in range(0, len(x), 4096): x[i] = 1\n"
    "  time.sleep(60)\ntime.sleep(60)",
    "disk": "n = 0\nwhile True:\n n += 1\n open(f'{{n}}', 'wb').write(b'x' * (1 << 20))",
    "one large file": "f = open('big', 'wb')\nwhile True: f.write(b'x' * (1 << 20))",
    "shared memory": "f = open('/dev/shm/big', 'wb')\nwhile True: f.write(b'x' * (1 << 20))",
    "many files": "n = 0\nwhile True:\n n += 1\n open(f'{{n}}', 'w').close()",
    "open files": "x = []\nwhile True: x.append(open('/dev/null'))",
    "network": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)\nprint('out')",
    "name service": "import socket\nsocket.getaddrinfo('example.org', 80)\nprint('out')",
    "home": "print('out' if open('{home}/{name}').read() else '')",
    "shadow": "print('out' if open('/etc/shadow').read() else '')",
    "passwords of users": "print('out' if open('/etc/passwd').read() else '')",
    "the project": (
        # its folder is there where the installed packages lie in it, and holds nothing else
        "import os\nkept = {{'.git', 'wdl', 'tests', 'README.md'}}\n"
        "print('out' if kept & set(os.listdir('{project}')) else '')"
    ),
    "import of the project": "import wdl\nprint('out')",
    "symbolic link": "import os\nos.symlink('{project}/README.md', 'x')\n"
    "print('out' if open('x').read() else '')",
    "writing to the interpreter": "import os\nopen(os.path.dirname(os.__file__) + '/x', 'w')\n"
    "print('out')",
    "writing to the root": "open('/x', 'w')\nprint('out')",
    "killing its parent": "import os\nos.kill(os.getppid(), 9)\nos.kill({pid}, 9)\nprint('out')",
    "killing all": "import os\nos.kill(-1, 9)\nprint('out')",
    "printing for ever": "while True: print('x' * 1000)",
    "errors for ever": "import sys\nwhile True: print('x' * 1000, file=sys.stderr)",
    "reports for ever": "import os\nwhile True: os.write(3, b'x' * 1000)",
    "ignored signals": "import signal\nfor s in signal.valid_signals() - {{9, 19}}:\n"
    " try: signal.signal(s, signal.SIG_IGN)\n except (OSError, ValueError): pass\n"
    "while True: pass",
    "daemon": "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
    "for f in (0, 1, 2, 3, 4):\n try: os.close(f)\n except OSError: pass\ntime.sleep(60)",
    "daemon that holds the output": "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\n"
    "time.sleep(60)",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    "fault": "import ctypes\nctypes.string_at(0)\nprint('out')",
    "closing its input": "import os\nos.close(0)\nwhile True: pass",
    "writing to its input": "import os\nos.write(0, b'x')\nprint('out')",
    "huge exception": "raise ValueError('x' * (1 << 26))",
    "raising its limits": "import resource as r\nfor n in ('AS', 'NPROC', 'FSIZE', 'CPU'):\n"
    " r.setrlimit(getattr(r, 'RLIMIT_' + n), (r.RLIM_INFINITY,) * 2)\nprint('out')",
    "ptrace": "import ctypes, os\nc = ctypes.CDLL(None)\n"
    "print('out' if c.ptrace(16, {pid}, 0, 0) == 0 or c.ptrace(16, 1, 0, 0) == 0 else '')",
    "memory of another": "f = open('/proc/1/mem', 'r+b')\nf.seek(1 << 20)\nf.read(1)\nprint('out')",
    "settings of the kernel": "open('/proc/sys/kernel/hostname', 'w').write('x')\nprint('out')",
    "sysrq": "open('/proc/sysrq-trigger', 'w').write('s')\nprint('out')",
    "no text": "import os\nos.write(1, bytes(range(256)) * 10)",
    "threads": "import threading, time\n"
    "for _ in range(5): threading.Thread(target=time.sleep, args=(60,)).start()",
    "exit functions": "import atexit\n@atexit.register\ndef f():\n while True: pass",
    "environment": "import os\nprint('out' if 'hidden' in str(os.environ) else '')",
    "environment of the first": "print('out' if b'hidden' in open('/proc/1/environ', 'rb').read() "
    "else '')",
    "command lines": "import os\nfor p in os.listdir('/proc'):\n"
    " if p.isdigit() and b'pytest' in open(f'/proc/{{p}}/cmdline', 'rb').read(): print('out')",
    "becoming root": "import os\nos.setuid(0)\nprint('out')",
    "a mount": "import ctypes\n"
    "print('out' if ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, 0) == 0 else '')",
    "a device": "import os\nos.mknod('x', 0o60600, 0x800)\nprint('out')",
    "the terminal": "open('/dev/tty', 'w').write('x')\nprint('out')",
}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def alive(mark: str) -> list[str]:
    """Command lines of processes that carry a mark, but for this one."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                text = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            found += [text.decode(errors="replace")] if mark.encode() in text else []
    return found


def gone(mark: str) -> bool:
    """Whether all such processes end soon; the kernel takes a moment to clear a namespace."""
    deadline = time.monotonic() + 5
    while alive(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(mark)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_programs_are_contained(
    name: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hidden")
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    program = HOSTILE[name].format(
        port=port, home=tmp_path, name="secret", project=REPOSITORY, pid=os.getpid()
    )
    before = sorted(file.name for file in Path(REPOSITORY).iterdir())
    began = time.monotonic()
    ran = Sandbox(limits=LIMITS).run(f"MARK = {LEFT!r}\n{program}", stdin=b"hello")
    assert time.monotonic() - began < LIMITS.seconds + 3
    assert b"out" not in ran.output.splitlines()
    assert len(ran.output) <= LIMITS.output + (1 << 16)
    assert sorted(file.name for file in Path(REPOSITORY).iterdir()) == before
    assert secret.read_text() == "hidden"
    assert gone("bounds_processes")


def run(program: str, **limits: float) -> Ran:
    given = {**vars(LIMITS), **limits}
    return Sandbox(limits=Limits(**given)).run(program)


def test_which_limit_was_reached_is_said() -> None:
    assert run("while True: pass").stopped == "time"
    assert run(HOSTILE["printing for ever"]).stopped == "output"
    assert run(HOSTILE["memory of many"], seconds=20).stopped == "memory"
    assert b"MemoryError" in run("x = bytearray(1 << 30)").errors
    assert b"Errno 28" in run(HOSTILE["disk"].format()).errors
    assert b"Errno 11" in run("import os\nfor _ in range(99): os.fork() or os.pause()").errors


def test_a_harmless_program_has_what_it_needs() -> None:
    program = (
        "import os, sys, math, json, threading, multiprocessing, tempfile, numpy\n"
        "with open('x', 'w') as f: f.write(sys.stdin.read())\n"
        "assert os.getcwd() == os.environ['HOME'] and 'x' in os.listdir()\n"  # beside this Python
        "tempfile.TemporaryFile().close()\n"
        "def twice(x): return 2 * x\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.Pool(2) as pool: print(pool.map(twice, [1, 2]), open('x').read())"
    )
    limits = Limits(seconds=20, memory=4 << 30)
    ran = Sandbox(limits=limits).run(program, stdin="2 ≠ 3".encode())
    assert (ran.code, ran.stopped, ran.output.decode()) == (0, "", "[2, 4] 2 ≠ 3\n"), ran.errors


def test_a_user_namespace_serves_those_who_are_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    sandbox = Sandbox(limits=LIMITS)
    sandbox.check()
    assert sandbox.run("import os\nprint(os.getuid())").output == b"65534\n"


def test_it_has_no_rights() -> None:
    ran = run(
        "import os\nprint(os.getuid(), os.geteuid(), os.getgroups())\n"
        "rights = ('CapEff', 'CapPrm', 'NoNew')\n"
        "print(*(line for line in open('/proc/self/status') if line.startswith(rights)))"
    )
    lines = ran.output.decode().split()
    assert lines[0] == lines[1] != "0"
    assert lines[-6:] == ["CapPrm:", "0" * 16, "CapEff:", "0" * 16, "NoNewPrivs:", "1"]


def test_what_is_told_later_waits_for_a_report() -> None:
    program = (
        "import os, time, select\n"
        "early = select.select([4], [], [], 0.2)[0]\nos.write(3, b'now')\n"
        "print(early, os.read(4, 100))"
    )
    ran = Sandbox(limits=LIMITS).run(program, later=b"secret")
    assert (ran.output, ran.report) == (b"[] b'secret'\n", b"now")


def test_long_inputs_and_outputs_pass() -> None:
    text = b"0123456789" * 100_000
    ran = Sandbox(limits=Limits(seconds=10)).run("print(input(), end='')", stdin=text)
    assert ran.output == text
    assert Sandbox(limits=LIMITS).run("pass", stdin=text).code == 0


def test_several_run_at_the_same_time() -> None:
    sandbox, found = Sandbox(limits=LIMITS), dict[int, bytes]()

    def one(number: int) -> None:
        found[number] = sandbox.run(f"print({number})").output

    threads = [threading.Thread(target=one, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: f"{n}\n".encode() for n in range(12)}


def test_no_descriptor_and_no_folder_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = len(os.listdir("/proc/self/fd"))
    for program in ("pass", "while True: pass", "raise SystemExit(3)"):
        run(program, seconds=0.3)
    assert len(os.listdir("/proc/self/fd")) == before
    assert not list(tmp_path.iterdir())


def test_without_bubblewrap_both_remedies_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"no bwrap.*install bubblewrap.*--sandbox\.kind plain"):
        Sandbox().check()
    Sandbox("plain").check()


def test_where_namespaces_are_refused_both_remedies_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    false = tmp_path / "bwrap"
    false.write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n"
    )
    false.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UserError, match=r"No permissions.*install bubblewrap.*plain"):
        Sandbox().check()


@pytest.mark.parametrize("name", ["endless loop", "memory", "printing for ever", "one large file"])
def test_plain_has_limits_too(name: str) -> None:
    ran = Sandbox("plain", LIMITS).run(HOSTILE[name])
    assert ran.code != 0
    assert gone("bounds_processes")


def test_plain_has_a_folder_and_an_environment_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "hidden")
    ran = Sandbox("plain").run("import os\nprint(os.listdir(), os.environ.get('SECRET'))")
    assert ran.output == b"[] None\n"
