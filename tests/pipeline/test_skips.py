"""Rounds that run: going on without what failed, asking step by step, and kills at any moment."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any

import pytest
from processes import killed_at_the_end, wait_for

from wdl.errors import UserError
from wdl.pipeline.plan import Digest, Plan, turns
from wdl.pipeline.record import Record
from wdl.pipeline.runner import is_running, run_steps
from wdl.pipeline.stages import Step, expand
from wdl.pipeline.status import status

ROOT = Path("out")
STARTED: list[subprocess.Popen] = []
# copies what it reads to a file of its own, which takes it a moment; a round in FAILS fails
STAGE = """
import os, sys, time
from pathlib import Path
_, _, out, *read = sys.argv
print("GPUs", os.environ.get("GPUS"))
Path(out, "attempts").open("a").write("x")
time.sleep(0.05)
if Path(out).name in Path("fails").read_text().split():
    sys.exit("no answer")
Path(out, "rows").write_text("".join(Path(file).read_text() for file in read) + Path(out).name)
"""
# and as one that can be killed; with answers it runs step by step
PIPELINE = """
import json, sys
from functools import partial
from pathlib import Path
sys.path += json.loads(sys.argv[1])
from test_skips import WDL, plan_of
from wdl.pipeline.ask import ask
from wdl.pipeline.runner import run_steps
show = partial(print, "the status")
step = partial(ask, show_status=show) if sys.argv[3] == "step" else None
run_steps(plan_of(json.loads(sys.argv[2])), Path("out"), WDL, step)
"""
WDL = (sys.executable, "stage.py")
ROUNDS: list[dict[str, Any]] = [
    {
        "rounds": 4,
        "first": {"model": "{here}/model"},
        "next": {"model": "{train}/rows"},
        "stages": [
            {
                "name": "collect",
                "on_failure": "skip",
                "environment": {"GPUS": "0,{round}"},
                "command": "copy {collect} {model}",
            },
            {"name": "grade", "command": "copy {grade} {collect}/rows"},
            {"name": "train", "from_round": 2, "command": "copy {train} {all:grade}/rows"},
        ],
    },
    {"name": "last", "command": "copy {last} {model}"},
]


@pytest.fixture(autouse=True)
def _stage() -> Iterator[None]:
    Path("stage.py").write_text(STAGE)
    Path("model").write_text("model ")
    Path("fails").write_text("collect-3")
    with killed_at_the_end(STARTED):
        yield


def plan_of(stages: Sequence[Any]) -> Plan:
    """The real steps, whose inputs are their words."""

    def plan(failed: Set[str]) -> tuple[Sequence[Step], Digest]:
        steps = expand(stages, Path.cwd(), Path.cwd() / ROOT, failed)
        return steps, lambda number, before: f"{steps[number].words} {before}"

    return plan


def run(stages: Sequence[Any] = ROUNDS) -> None:
    run_steps(plan_of(stages), ROOT, WDL)


def start(mode: str = "", stages: Sequence[Any] = ROUNDS) -> subprocess.Popen:
    tests = json.dumps([str(folder) for folder in Path(__file__).parents[:2]])
    command = [sys.executable, "-c", PIPELINE, tests, json.dumps(stages), mode]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    STARTED.append(subprocess.Popen(command, text=True, **pipes))  # type: ignore[call-overload]
    return STARTED[-1]


def steps(answers: str, stages: Sequence[Any] = ROUNDS) -> tuple[int, str, str]:
    """Exit code, output and errors of a run step by step."""
    child = start("step", stages)
    out, error = child.communicate(answers, timeout=60)
    return child.returncode, out, error


def record(name: str) -> Record:
    found = Record.read(ROOT / name)
    assert found is not None
    return found


def rows() -> dict[str, str]:
    return {str(file.parent.name): file.read_text() for file in ROOT.glob("*/rows")}


def decisions() -> dict[str, tuple[str, str]]:
    return {turn.step.name: turn.decision for turn in turns(plan_of(ROUNDS), ROOT)}


def test_it_goes_on_without_what_failed(capfd: pytest.CaptureFixture[str]) -> None:
    run()
    assert rows().keys() == {
        *("collect-1", "grade-1", "collect-2", "grade-2", "train-2", "train-3"),
        *("collect-4", "grade-4", "train-4", "last"),
    }
    assert "grade-2train-3collect-4" in rows()["collect-4"]
    found = {name: record(name) for name in ("train-1", "collect-3", "grade-3")}
    assert {one.state for one in found.values()} == {"skipped"}
    assert [one.reason for one in found.values()] == [
        "it begins in round 2",
        "it failed with exit code 1",
        "it needs collect-3, which is skipped",
    ]
    assert [*found["collect-3"].failures] == [1]
    assert "GPUs 0,4" in (ROOT / "collect-4" / "log.txt").read_text()
    shown = {row[0]: (row[1], row[4]) for row in status(plan_of(ROUNDS), ROOT)}
    assert shown["train-1"] == ("skipped", "it begins in round 2")
    assert shown["collect-3"] == ("skipped (1)", "out/collect-3/log.txt")
    before = {file: file.read_bytes() for file in ROOT.glob("*/stage.json")}
    capfd.readouterr()
    run()
    assert {file: file.read_bytes() for file in ROOT.glob("*/stage.json")} == before
    assert "delete out/collect-3 to try it again" in capfd.readouterr().out


def test_a_skipped_failure_can_be_tried_again() -> None:
    run()
    Path("fails").write_text("")
    shutil.rmtree(ROOT / "collect-3")
    assert decisions()["grade-2"] == ("keep", "done")
    assert decisions()["collect-3"] == ("run", "it has not run yet")
    assert decisions()["train-3"] == ("run", "a stage before it runs")
    run()
    assert rows().keys() >= {"collect-3", "grade-3"}
    assert "collect-3grade-3" in rows()["train-4"]
    assert not list(ROOT.glob("grade-3.superseded-*"))  # there was nothing to keep
    assert (ROOT / "train-3.superseded-1" / "rows").exists()


def test_without_on_failure_it_stops() -> None:
    Path("fails").write_text("grade-2")
    with pytest.raises(UserError, match="stage grade-2 failed with exit code 1"):
        run()
    assert record("grade-2").state == "failed"
    assert not (ROOT / "train-2").exists()


def test_a_warm_up_that_ends_earlier_runs_what_it_skipped() -> None:
    run()
    earlier = json.loads(json.dumps(ROUNDS).replace('"from_round": 2', '"from_round": 1'))
    run(earlier)
    assert record("train-1").state == "done"
    run()
    assert record("train-1").state == "skipped"
    assert (ROOT / "train-1.superseded-1" / "rows").exists()


def test_environment_and_retries_are_no_change() -> None:
    run()
    before = record("last")
    given = json.dumps(ROUNDS).replace("0,{round}", "7").replace('"on_failure"', '"retries": 3, $')
    run(json.loads(given.replace("$", '"on_failure"')))
    assert record("last") == before


def waiting(seconds: float) -> list[dict[str, Any]]:
    stage = {"name": "a", "command": "copy {a}", "retries": {"count": 1, "wait": seconds}}
    Path("fails").write_text("a")
    return [stage]


def test_there_is_time_between_attempts(capfd: pytest.CaptureFixture[str]) -> None:
    began = time.monotonic()
    with pytest.raises(UserError):
        run(waiting(1))
    assert time.monotonic() - began > 1
    assert [*record("a").failures] == [1, 1]
    assert "a: waiting 1 s" in capfd.readouterr().out


def test_a_signal_ends_the_wait() -> None:
    child = start("", waiting(600))
    wait_for(lambda: (ROOT / "a/stage.json").exists() and record("a").state == "failed")
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=30)
    assert child.returncode == 143
    assert not is_running(ROOT)
    Path("fails").write_text("")
    run([{"name": "a", "command": "copy {a}"}])
    assert (record("a").state, record("a").attempts) == ("done", 2)


def test_step_by_step() -> None:
    code, out, error = steps("s\nnonsense\nC\nquit\n")
    assert code == 0
    assert out.count("round 1 of 4, from collect-1: (c)ontinue, (s)tatus, (q)uit?") == 3
    assert out.count("the status") == 1
    assert "round 2 of 4, from collect-2" in out
    assert "the same command goes on from here" in error
    assert rows().keys() == {"collect-1", "grade-1"}
    code, out, _ = steps("")
    assert code == 0 and "round 2 of 4, from collect-2" in out and "round 1" not in out
    assert rows().keys() == {"collect-1", "grade-1"}


def test_step_by_step_through_a_failure() -> None:
    code, out, error = steps("c\nc\nc\nr\nr\nc\nc\n")
    assert code == 0, error
    asked = "stage collect-3 failed with exit code 1: (c)ontinue, (r)etry, (s)tatus, (q)uit?"
    assert out.count(asked) == 3
    assert "| no answer" in error
    assert len((ROOT / "collect-3" / "attempts").read_text()) == 3
    assert record("collect-3").state == "skipped"
    assert record("last").state == "done"
    run()
    assert record("collect-3").attempts == 3


def test_step_by_step_a_failure_that_must_be_mended() -> None:
    Path("fails").write_text("grade-1")
    child = start("step")
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write("c\n")
    child.stdin.flush()
    wait_for(lambda: (ROOT / "grade-1/stage.json").exists() and record("grade-1").state == "failed")
    Path("fails").write_text("")
    out, _ = child.communicate("c\nr\nq\n", timeout=30)
    assert out.count("stage grade-1 failed with exit code 1: (r)etry, (s)tatus, (q)uit?") == 2
    assert "round 2 of 4" in out and child.returncode == 0
    assert (record("grade-1").state, record("grade-1").attempts) == ("done", 2)


def test_quitting_after_a_failure_is_a_failure() -> None:
    Path("fails").write_text("grade-1")
    code, _, error = steps("c\nq\n")
    assert code != 0 and "stage grade-1 failed with exit code 1; log: out/grade-1/log.txt" in error


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_signal_while_it_asks(number: signal.Signals, code: int) -> None:
    child = start("step")
    assert child.stdout is not None
    assert os.read(child.stdout.fileno(), 100).startswith(b"round 1 of 4")
    child.send_signal(number)
    _, error = child.communicate(timeout=30)
    assert (child.returncode, "Traceback" in error) == (code, False)
    assert not is_running(ROOT)
    assert steps("c\nc\nc\nc\nc\n")[0] == 0
    assert record("last").state == "done"


def test_kills_at_any_moment_change_nothing_in_the_end() -> None:
    began = time.monotonic()
    run()
    whole = time.monotonic() - began
    undisturbed = rows()
    shutil.rmtree(ROOT)
    random.seed(7)
    kills = 0
    while kills < 6:
        child = start()
        try:
            child.communicate(timeout=random.uniform(0.1, 0.9) * whole)
            shutil.rmtree(ROOT)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            kills += 1
    run()
    assert rows() == undisturbed
    states = [turn.decision[0] for turn in turns(plan_of(ROUNDS), ROOT)]
    assert (states.count("skip"), states.count("keep")) == (2, 11)
