"""Child processes that hang, crash, talk a lot or outlive their parent."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wdl.system.child import Child, ChildFailure, receive_any

ECHO = "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"


def child(code: str) -> Child:
    return Child([sys.executable, "-c", code])


def test_answers_in_order() -> None:
    one = child(ECHO)
    for number in range(100):
        one.send({"number": number, "text": "é\n"})
    assert [one.receive(10)["number"] for _ in range(100)] == list(range(100))
    one.close()


def test_long_lines_arrive_whole() -> None:
    one = child("print('[' + '1,' * 300_000 + '1]')")
    assert len(one.receive(10)) == 300_001
    one.close()


def test_silence_is_a_failure_after_the_limit() -> None:
    one = child("import time; time.sleep(60)")
    with pytest.raises(ChildFailure, match=r"no answer within 0\.2 s"):
        one.receive(0.2)
    one.close()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
    ],
)
def test_death_is_a_failure_at_once(code: str, message: str) -> None:
    one = child(code)
    with pytest.raises(ChildFailure, match=message):
        one.receive(30)
    one.close()


def test_sending_to_the_dead_is_a_failure() -> None:
    one = child("")
    with pytest.raises(ChildFailure, match="exit code 0"):
        while True:
            one.send({})
    one.close()


def test_waits_for_whoever_is_first() -> None:
    slow, fast = child("import time; time.sleep(60)"), child("print(1)")
    assert receive_any([slow, fast], 10) == (fast, 1)
    slow.close()
    fast.close()


def test_closing_ends_grandchildren_too() -> None:
    code = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(p.pid, flush=True)\n"
        "p.wait()"
    )
    one = child(code)
    pid = one.receive(10)
    one.close()
    wait_until_gone(pid)


def test_a_busy_grader_dies_with_its_parent() -> None:
    code = (
        "import sys, os, signal\n"
        "from wdl.system.child import Child\n"
        "one = Child([sys.executable, '-m', 'wdl.grading.math_worker'])\n"
        "one.receive(120)\n"
        "one.send({'answer': '10^{10^{10^{10}}}', 'references': ['5']})\n"
        "try: one.receive(1)\n"
        "except Exception: print(one._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    # the grader inherits the error stream, and reading it to its end would wait for the grader
    parent = subprocess.run(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.returncode == -signal.SIGKILL
    wait_until_gone(int(parent.stdout))


def wait_until_gone(pid: int) -> None:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail(f"process {pid} outlived its parent by ten seconds")
