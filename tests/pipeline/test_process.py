"""A command in a process of its own: what is shown, what is logged, how it ends."""

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import LISTEN, ended, killed_at_the_end, wait_for

from wdl.pipeline.process import Signals, run_logged

LOG = Path("log.txt")
STARTED: list[subprocess.Popen] = []
# a pipeline of one command, which is the first argument
RUN = """
import sys
from pathlib import Path
from wdl.pipeline.process import Signals, run_logged
with Signals().caught() as signals:
    code = run_logged([sys.executable, "-c", sys.argv[1]], Path("log.txt"), signals)
    print("received", signals.received and signals.received.name, "code", code)
"""


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    with killed_at_the_end(STARTED):
        yield


def run(code: str) -> int:
    with Signals().caught() as signals:
        return run_logged([sys.executable, "-c", code], LOG, signals)


def start(code: str) -> subprocess.Popen:
    command = [sys.executable, "-c", RUN, code]
    STARTED.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    return STARTED[-1]


def logged() -> str:
    return LOG.read_text() if LOG.exists() else ""


def process_in_log() -> int:
    wait_for(lambda: "pid " in logged())
    return int(logged().split("pid ")[1].split()[0])


def test_output_is_shown_and_logged(capfd: pytest.CaptureFixture[str]) -> None:
    LOG.write_text("before\n")
    assert run("import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)") == 3
    assert capfd.readouterr().out == "out\nerr\n"
    assert logged() == "before\nout\nerr\n"


def test_a_signal_is_an_exit_code() -> None:
    assert run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)") == 137


def test_of_bars_the_last_state_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    bars = (
        "from tqdm import tqdm\nprint('begin')\n"
        "for i in tqdm(range(20), mininterval=0, miniters=1, desc='outer'):\n"
        "    for j in tqdm(range(3), mininterval=0, leave=False, desc='inner'): pass\n"
        "print('\\x1b[1mend\\x1b[0m', end='')"
    )
    run(bars)
    begin, outer, end = (line for line in logged().splitlines() if "| 0/" not in line)
    assert (begin, end) == ("begin", "end")
    assert outer.startswith("outer: 100%") and "20/20" in outer
    assert capfd.readouterr().out.count("\r") > 40


def test_on_a_terminal_the_command_writes_to_a_terminal() -> None:
    ours, theirs = pty.openpty()
    code = "import os, sys; print([os.isatty(n) for n in (0, 1, 2)], os.get_terminal_size(1))"
    import fcntl
    import struct
    import termios

    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 17, 71, 0, 0))
    subprocess.run([sys.executable, "-c", RUN, code], stdout=theirs, check=True)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    os.close(theirs)
    expected = "[False, True, True] os.terminal_size(columns=71, lines=17)"
    assert shown.splitlines() == [expected, "received None code 0"]
    assert logged() == expected + "\n"


def test_a_screen_that_is_gone_stops_nothing() -> None:
    child = start("import time\nfor n in range(5): print(n); time.sleep(0.05)")
    assert child.stdout is not None
    child.stdout.close()
    child.wait(30)
    assert logged() == "0\n1\n2\n3\n4\n"


@pytest.mark.parametrize(
    ("number", "heard"),
    [
        (signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, signal.SIGTERM),
        (signal.SIGHUP, 15),
        (signal.SIGUSR1, 10),
    ],
)
def test_a_signal_reaches_the_command_once(number: int, heard: int) -> None:
    inherited = signal.signal(number, signal.SIG_DFL)  # nohup has it ignored, and so by children
    try:
        child = start(LISTEN.format(count=1))
    finally:
        signal.signal(number, inherited)
    process_in_log()
    child.send_signal(number)
    out, _ = child.communicate(timeout=30)
    assert f"heard {int(heard)}\n" in out
    assert f"received {signal.Signals(number).name} code 7" in out
    assert "heard" in logged()


def test_a_second_signal_reaches_it_too() -> None:
    child = start(LISTEN.format(count=2))
    process = process_in_log()
    child.send_signal(signal.SIGINT)
    time.sleep(0.2)  # two at the same time may become one
    assert not ended(process)
    child.send_signal(signal.SIGINT)
    assert "heard 2 2\n" in child.communicate(timeout=30)[0]


def test_what_a_command_leaves_behind_ends_with_it() -> None:
    code = (
        "import subprocess, sys, time\n"
        "left = subprocess.Popen([sys.executable, '-c', 'while True: print(1, flush=True)'])\n"
        "time.sleep(0.2); open('pid', 'w').write(str(left.pid))"
    )
    assert run(code) == 0
    wait_for(lambda: ended(int(Path("pid").read_text())))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's service to orphans is Linux's")
def test_a_killed_pipeline_takes_its_command_along() -> None:
    child = start("import os, time; print('pid', os.getpid()); time.sleep(600)")
    process = process_in_log()
    child.kill()
    child.wait()
    wait_for(lambda: ended(process))
