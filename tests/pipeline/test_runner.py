"""Steps run in order, each once; what changed, crashed or was killed runs again."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from processes import LISTEN, ended, killed_at_the_end, wait_for

from wdl.errors import UserError
from wdl.pipeline.plan import Plan
from wdl.pipeline.record import OUTCOME, Record
from wdl.pipeline.runner import is_running, run_steps
from wdl.pipeline.stages import Step

ROOT = Path("out")
STARTED: list[subprocess.Popen] = []
PYTHON = (sys.executable, "-c")
# stands for srun or sbatch: says what it starts, and becomes it
SCRIPT = f"""#!/bin/sh
echo "launched: $*" # and wdl is this environment's:
[ "$(command -v torchrun)" = "{Path(sys.executable).parent}/torchrun" ] || exit 9
shift
exec {sys.executable} -c "$@"
"""
QUICK = Step("first", ("print(1)",)), Step("second", ("print(2)",))
# writes one more letter at each attempt, and only then does what it is for
COUNTED = "f = open('attempts', 'a'); f.write('x'); f.close()\n"


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    with killed_at_the_end(STARTED):
        yield


def plan_of(steps: Sequence[Step]) -> Plan:
    return lambda failed: (steps, lambda number, before: f"{steps[number].words} {before}")


def run(*steps: Step) -> None:
    run_steps(plan_of(steps), ROOT, PYTHON)


def record(name: str) -> Record:
    found = Record.read(ROOT / name)
    assert found is not None
    return found


def attempts() -> int:
    return len(Path("attempts").read_text())


def pipeline(*steps: Step) -> subprocess.Popen:
    """The same in a process that can be killed."""
    given = json.dumps([[step.name, step.words, 0, step.launcher] for step in steps])
    code = (
        "import json, sys\nfrom pathlib import Path\nfrom wdl.pipeline.runner import run_steps\n"
        "from wdl.pipeline.stages import Step\n"
        "steps = [Step(n, tuple(w), r, tuple(l)) for n, w, r, l in json.loads(sys.argv[1])]\n"
        "digest = lambda number, before: f'{steps[number].words} {before}'\n"
        "run_steps(lambda failed: (steps, digest), Path('out'), (sys.executable, '-c'))"
    )
    command = [*PYTHON, code, given]
    STARTED.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    return STARTED[-1]


def test_a_finished_stage_is_skipped(capfd: pytest.CaptureFixture[str]) -> None:
    run(*QUICK)
    before = record("first"), record("second")
    assert capfd.readouterr().out.splitlines() == [
        *("[1/2] first: wdl 'print(1)'", "1", "[2/2] second: wdl 'print(2)'", "2"),
        "report: out/report.md",
    ]
    run(*QUICK)
    assert (record("first"), record("second")) == before
    assert capfd.readouterr().out.count("done, skipped") == 2


def test_a_changed_stage_runs_again_and_so_do_those_after_it() -> None:
    first, second = QUICK
    run(first, second)
    before = record("first"), record("second")
    run(first, Step("second", ("print(3)",)))
    assert record("first") == before[0]
    assert record("second").identity != before[1].identity
    run(first, second)
    again = record("second")
    run(Step("first", ("print(3)",)), second)
    assert record("second").identity != again.identity


def test_a_stage_that_ran_again_on_the_same_inputs_counts_as_a_change() -> None:
    run(*QUICK)
    before = record("second")
    (ROOT / "first").rename("elsewhere")
    run(*QUICK)
    assert record("second").identity != before.identity


def test_what_an_older_run_left_is_kept() -> None:
    run(QUICK[0])
    (ROOT / "first" / "result").touch()
    run(Step("first", ("print(3)",)))
    assert (ROOT / "first.superseded-1" / "result").exists()
    assert not (ROOT / "first" / "result").exists()


def test_a_failed_stage_is_named_with_its_log_and_tried_again() -> None:
    failing = Step("second", ("print('reason'); raise SystemExit(9)",))
    for attempt in (1, 2):
        with pytest.raises(UserError) as error:
            run(QUICK[0], failing, Step("third", ("print(3)",)))
        first, *tail = error.value.faults
        assert "stage second failed with exit code 9; log: out/second/log.txt" in first
        assert tail[-1] == "| reason"
        assert record("second").state == "failed"
        assert record("second").attempts == attempt
        assert not (ROOT / "third").exists()
        report = json.loads((ROOT / "report.json").read_text())["stages"]
        assert [stage["state"] for stage in report] == ["done", "failed", "waiting"]


def test_a_stage_that_lacks_what_was_removed_names_who_made_it() -> None:
    made = (ROOT / "first" / "rows").absolute()
    first = Step("first", (f"open({str(made)!r}, 'w').close()",))
    second = Step("second", ("import sys; open(sys.argv[1].strip('[\"]'))", f'["{made}"]'))
    run(first, second)
    made.unlink()
    second = replace(second, words=(*second.words, "changed"))
    with pytest.raises(UserError) as error:
        run(first, second)
    remedy = f"there is no {made}: if it was removed, delete {made.parent}, and stage first runs"
    assert remedy in error.value.faults[0]
    shutil.rmtree(made.parent)
    run(first, second)
    with pytest.raises(UserError) as error:
        run(first, replace(second, words=("raise SystemExit(1)", str(made))))
    assert "there is no" not in error.value.faults[0]


def test_a_crash_is_retried_so_often_and_no_more(capfd: pytest.CaptureFixture[str]) -> None:
    code = COUNTED + "raise SystemExit(0 if open('attempts').read() == 'xxx' else 1)"
    with pytest.raises(UserError):
        run(Step("flaky", (code,), retries=1))
    assert attempts() == 2
    run(Step("flaky", (code,), retries=1))
    assert (attempts(), record("flaky").attempts) == (3, 3)
    assert "attempt 2 of 2" in capfd.readouterr().out
    assert (ROOT / "flaky" / "log.txt").read_text().count("==> ") == 3


def test_wrong_input_is_not_retried() -> None:
    with pytest.raises(UserError, match="exit code 2"):
        run(Step("wrong", (COUNTED + "raise SystemExit(2)",), retries=3))
    assert attempts() == 1


def test_a_fit_goes_on_from_its_checkpoint_unless_its_inputs_have_changed() -> None:
    code = COUNTED + "import sys; print(sys.argv[1:]); sys.exit(len(open('attempts').read()) < 3)"

    def fit(*words: str) -> list[str]:
        steps = [Step("fit", ("fit", *words), retries=1)]
        with contextlib.suppress(UserError):
            run_steps(plan_of(steps), ROOT, (*PYTHON, code))
        lines = (ROOT / "fit/log.txt").read_text().splitlines()
        return [line for line in lines if line.startswith("[")]

    assert fit() == ["['fit']", "['fit', '--ckpt_path', 'last']"]
    assert fit("-x") == ["['fit', '-x']"]
    assert fit() == ["['fit']"]


def test_a_signal_ends_the_pipeline_with_the_code_of_its_stage() -> None:
    child = pipeline(Step("first", (LISTEN.format(count=1),)), QUICK[1])
    log = ROOT / "first" / "log.txt"
    wait_for(lambda: log.exists() and "pid " in log.read_text())
    assert is_running(ROOT)
    with pytest.raises(UserError, match=rf"another pipeline runs here \(process {child.pid}\)"):
        run(*QUICK)
    child.send_signal(signal.SIGTERM)
    _, printed = child.communicate(timeout=30)
    assert child.returncode == 7
    assert "stage first ended with exit code 7 after SIGTERM" in printed
    assert record("first").state == "stopped"
    assert not (ROOT / "second").exists()
    assert not is_running(ROOT)


def test_a_stage_that_a_signal_found_done_is_done() -> None:
    child = pipeline(Step("first", (LISTEN.format(count=1).replace("exit(7)", "exit(0)"),)))
    log = ROOT / "first" / "log.txt"
    wait_for(lambda: log.exists() and "pid " in log.read_text())
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert child.returncode == 130
    assert record("first").state == "done"


def test_after_a_kill_the_same_command_goes_on() -> None:
    waits = COUNTED + "import time\nif open('attempts').read() == 'x': time.sleep(600)"
    steps = QUICK[0], Step("second", (waits,)), Step("third", ("print(3)",))
    child = pipeline(*steps)
    wait_for(lambda: Path("attempts").exists() and attempts() == 1)
    first = record("first")
    child.kill()
    child.communicate()
    assert record("second").state == "running"
    run(*steps)  # waits for the stage if it still runs
    assert record("first") == first
    assert (record("second").attempts, record("second").state) == (2, "done")
    assert record("third").state == "done"
    assert not is_running(ROOT)


def test_a_stage_that_outlives_its_pipeline_is_waited_for(
    capfd: pytest.CaptureFixture[str],
) -> None:
    saves = (
        "import os, signal, sys, time\n"
        "def save(*_): time.sleep(1); open('saved', 'w').close(); os._exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "if os.path.exists('pid'): sys.exit(not os.path.exists('saved'))\n"
        "open('pid', 'w').write(str(os.getpid()) + ' ')\n"
        "while True: signal.pause()"
    )
    child = pipeline(Step("first", (saves,)))
    wait_for(lambda: Path("pid").exists() and Path("pid").read_text().endswith(" "))
    child.kill()
    child.communicate()
    run(Step("first", (saves,)))
    assert record("first").state == "done"
    assert "waiting for a stage of a killed pipeline to end" in capfd.readouterr().out
    assert ended(int(Path("pid").read_text()))


def test_the_duration_of_a_killed_attempt_is_not_lost() -> None:
    folder = ROOT / "first"
    began = Record("inputs", "wdl tiny").begin(folder)
    began.write(folder)
    (folder / "log.txt").touch()
    os.utime(folder / "log.txt", (time.time() + 50,) * 2)
    assert began.begin(folder).seconds == pytest.approx(50, abs=5)


def test_an_outcome_of_an_earlier_attempt_is_forgotten() -> None:
    code = COUNTED + (
        "from wdl.system.outcome import leave_outcome\n"
        "if open('attempts').read() == 'x': leave_outcome({}, {'loss': 1}); raise SystemExit(1)"
    )
    (ROOT / "first").mkdir(parents=True)
    with pytest.raises(UserError):
        run(Step("first", (code,)))
    assert (ROOT / "first" / OUTCOME).exists()
    run(Step("first", (code,)))
    assert not (ROOT / "first" / OUTCOME).exists()


@pytest.fixture
def script() -> str:
    Path("srun").write_text(SCRIPT)
    Path("srun").chmod(0o755)
    return "./srun"


def test_a_launcher_starts_its_stage(script: str, capfd: pytest.CaptureFixture[str]) -> None:
    step = Step("first", ("print(1)",), launcher=(script,))
    run(step)
    shown = ["[1/1] first: ./srun wdl 'print(1)'", "launched: wdl print(1)", "1"]
    assert capfd.readouterr().out.splitlines()[:3] == shown
    run(replace(step, launcher=()))
    assert "done, skipped" in capfd.readouterr().out


def test_a_signal_reaches_a_stage_behind_its_launcher(script: str) -> None:
    child = pipeline(Step("first", (LISTEN.format(count=1),), launcher=(script,)))
    log = ROOT / "first" / "log.txt"
    wait_for(lambda: log.exists() and "pid " in log.read_text())
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=30)
    assert child.returncode == 7
    assert "heard 15" in log.read_text()
