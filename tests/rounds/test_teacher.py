"""``wdl grade`` with a teacher: verdicts, what is said of it, kills, and what ends a stage."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from attempts import attempt, read, refused, write
from processes import wait_for
from servers import Said, Server, completion, question, refusal, serve

from wdl.cli import main
from wdl.system.outcome import VARIABLE, read_outcome

KEY = "sk-very-secret-0123"
JOURNAL = Path("graded.jsonl.teacher.jsonl")


@pytest.fixture(autouse=True)
def samples() -> None:
    """Sixty attempts; the rules hold every second to be right."""
    os.environ["MY_KEY"] = KEY
    boxes = [rf"Attempt {n}: \boxed{{{1 + n % 2}}}" for n in range(60)]
    write("samples.jsonl", [attempt(f"{n}?", 0, completion=text) for n, text in enumerate(boxes)])


def judge(body: dict, n: int) -> Said:
    """Right, but for the tenth, of which it says nothing, and the twentieth, which is wrong."""
    text = question(body)
    if "Attempt 10:" in text:
        return completion("Hm.", seconds=0.02)
    name = "wrong" if "Attempt 20:" in text else "right"
    reply = json.dumps({"reason": "so", "answer": "1", "verdict": name})
    return completion(reply, seconds=0.02)


def command(server: Server, by: str = "teacher", *more: str) -> list[str]:
    options = ["--samples", "samples.jsonl", "--out", "graded.jsonl", "--by", by]
    teacher = ["--teacher.url", server.url, "--teacher.model", "m", "--teacher.in_flight", "2"]
    return ["grade", *options, *teacher, "--teacher.key_variable", "MY_KEY", *more]


def verdicts() -> list[str]:
    return [row["verdict"] for row in read("graded.jsonl")]


def test_a_teacher_judges_and_is_compared_with_the_rules(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, "outcome.json")
    prices = ["--teacher.budget.prompt_price", "100000", "--teacher.budget.completion_price", "0"]
    with serve(judge) as server:
        main(command(server, "teacher", *prices))
    found = verdicts()
    assert (found[10], found[20], found.count("right")) == ("ungraded", "wrong", 58)
    amounts, metrics = read_outcome(Path("outcome.json"))
    assert amounts == {"attempts": 60, "replies": 62, "tokens": 62 * 12, "cost": 31.0}
    # both judge 59; rules hold 1 for right at even numbers but 10, of which the teacher denies 20
    assert metrics["agreement"] == pytest.approx(28 / 59)
    assert metrics["ungraded"] == pytest.approx(1 / 60)
    summary = json.loads(Path("graded.jsonl.summary.json").read_text())
    assert summary["agreement"] == {"both": 59, "agree": 28, "only_rules": 1, "only_teacher": 30}
    assert summary["key"]["judge"]["model"] == "m"
    assert len(summary["key"]["judge"]["prompt_sha256"]) == 64
    printed = capsys.readouterr().out
    assert "teacher: 62 replies, 744 tokens, cost 31.0000" in printed
    assert "teacher and rules agree on 47.5% of 59 attempts" in printed
    with serve(judge) as silent:  # done already
        main(command(silent, "teacher", *prices))
    assert not silent.bodies


def test_rules_that_can_tell_need_no_teacher() -> None:
    with serve(judge) as server:
        main(command(server, "rules_then_teacher"))
    assert verdicts() == ["right", "wrong"] * 30
    assert not server.bodies


def test_a_kill_costs_no_reply() -> None:
    def entries() -> list[str]:
        lines = JOURNAL.read_text().splitlines(True) if JOURNAL.is_file() else []
        return [line for line in lines if line.endswith("\n")][1:]

    with serve(judge) as server:
        words = [sys.executable, "-m", "wdl", *command(server)]
        with Path("log").open("wb") as log:
            run = subprocess.Popen(words, stdout=log, stderr=log)
            wait_for(lambda: len(entries()) >= 10 or run.poll() is not None, 60)
            run.send_signal(signal.SIGKILL)
            run.wait()
        kept, before = len(entries()), len(server.bodies)
        assert 10 <= kept < 62
        done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(server.bodies) - before == 62 - kept
    assert verdicts().count("right") == 58
    written = [file.read_text() for file in Path().rglob("*") if file.is_file()]
    assert not [text for text in [*written, done.stdout, done.stderr] if KEY in text]


def test_a_spent_budget_stops_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    few, many = ["--teacher.budget.tokens", "1500"], ["--teacher.budget.tokens", "9999"]
    short = ["--teacher.max_tokens", "10"]
    with serve(judge) as server:
        with pytest.raises(SystemExit) as end:
            main(command(server, "teacher", *few, *short))
        assert end.value.code == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("wdl: error: budget: ")
        assert 0 < len(server.bodies) < 62
        main(command(server, "teacher", *many, *short))
        assert len(server.bodies) == 62


@pytest.mark.parametrize(
    ("said", "code", "fault"),
    [
        (refusal(401, KEY), 2, "it refuses the key that MY_KEY holds"),
        (refusal(404, f"no model m {KEY}"), 2, "check url and model (m)"),
        (refusal(500), 1, "the judge failed (1 requests got no reply"),
    ],
)
def test_what_ends_a_stage(said: Said, code: int, fault: str, run: Callable) -> None:
    with serve(lambda body, n: said) as server:
        done = run(*command(server, "teacher", "--teacher.retries", "0"))
    assert done.returncode == code
    last = done.stderr.splitlines()[-1]
    assert last.startswith("wdl: error: ")
    assert fault in last
    assert KEY not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess]:
    def run(*words: str) -> subprocess.CompletedProcess:
        whole = [sys.executable, "-m", "wdl", *words]
        return subprocess.run(whole, capture_output=True, text=True)

    return run


def test_interrupted_by_hand(run: Callable) -> None:
    def slow(body: dict, n: int) -> Said:
        said = judge(body, n)
        said.seconds = 0.5
        return said

    with serve(slow) as server:
        words = [sys.executable, "-m", "wdl", *command(server)]
        process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: len(server.bodies) > 4, 60)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said
    with serve(judge) as server:
        assert run(*command(server)).returncode == 0


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["grade", "--samples", "samples.jsonl", "--out", "graded.jsonl", "--by"]
    assert "name the teacher, by --teacher.url" in refused([*options, "teacher"], capsys)
    assert "choose from rules, teacher, rules_then_teacher" in refused([*options, "me"], capsys)
    teacher = ["--teacher.url", "http://host/v1", "--teacher.model", "m"]
    assert "--by rules: it asks no teacher" in refused([*options, "rules", *teacher], capsys)
    del os.environ["MY_KEY"]
    assert "MY_KEY is not set" in refused(command(Server("http://host/v1")), capsys)
