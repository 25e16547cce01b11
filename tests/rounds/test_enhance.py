"""``wdl enhance``: what is asked, what is kept, kills, and that the next pool takes it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from attempts import attempt, read, refused, write
from processes import wait_for
from servers import Said, Server, completion, question, serve

from wdl.cli import main
from wdl.rounds.enhance import SOLVE
from wdl.rounds.pool import question_id
from wdl.system.outcome import VARIABLE, read_outcome

KEY = "sk-very-secret-0123"
NEXT = ["next-pool", "--pool", "pool.jsonl", "--graded", "graded.jsonl"]
NEXT += ["--enhance", "enhanced.jsonl", "--out", "next.jsonl"]
PARENTS = [f"{n}+{n}?" for n in range(1, 7)]


@pytest.fixture(autouse=True)
def files() -> None:
    """A pool of six questions, of which the last is solved."""
    os.environ["MY_KEY"] = KEY
    write("pool.jsonl", [{"question": text, "answer": str(2 * n)} for n, text in _numbered()])
    rows = [
        attempt(text, k, "wrong" if k and n < 6 else "right", answer=str(2 * n))
        for n, text in _numbered()
        for k in range(3)
    ]
    write("graded.jsonl", rows)


def _numbered() -> list[tuple[int, str]]:
    return list(enumerate(PARENTS, start=1))


def teach(body: dict, n: int) -> Said:
    """A sum for each that failed; the teacher is sure of none above 300."""
    text = question(body)
    if body["messages"][0]["content"] == SOLVE:
        number = int(text.split("+")[0])
        answer = number + number if number < 300 else number + body["seed"]
        return completion(rf"It is \boxed{{{answer}}}.", seconds=0.05)
    if "<question>" not in text:  # the probe
        return completion("{}")
    number = 100 * int(re.findall(r"(\d+)\+", text)[0])
    new = {"question": f"{number}+{number}?", "answer": 2 * number}
    return completion(json.dumps({"analysis": "Adds too little.", "questions": [new, new]}))


def command(server: Server, *more: str) -> list[str]:
    options = ["--pool", "pool.jsonl", "--graded", "graded.jsonl", "--out", "enhanced.jsonl"]
    teacher = ["--teacher.url", server.url, "--teacher.model", "m", "--teacher.in_flight", "2"]
    return ["enhance", *options, *teacher, "--teacher.key_variable", "MY_KEY", *more]


def test_kept_is_what_the_teacher_agrees_with_itself_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, "outcome.json")
    with serve(teach) as server:
        main(command(server))
    rows = read("enhanced.jsonl")
    assert [(row["question"], row["answer"]) for row in rows] == [
        ("100+100?", "200"),
        ("200+200?", "400"),
    ]
    assert rows[0]["parent"] == question_id("1+1?")
    assert (rows[0]["origin"], rows[0]["generation"]) == ("enhanced", 1)
    solutions = Counter(text for text in server.questions if "<" not in text and "form" not in text)
    # three of five settle it: three agree, or no more than two can
    assert solutions == {f"{n}00+{n}00?": 3 for n in range(1, 6)}
    asked = next(text for text in server.questions if "<question>\n2+2?" in text)
    assert asked.count("<attempt>") == 2
    amounts, _ = read_outcome(Path("outcome.json"))
    assert (amounts["failed"], amounts["proposed"], amounts["kept"]) == (5, 5, 2)
    assert amounts["no agreement"] == 3
    assert "2 questions from 5 failed ones" in capsys.readouterr().out

    main(NEXT)
    origins = Counter(row["origin"] for row in read("next.jsonl"))
    assert origins["enhanced"] == 2


def test_nothing_kept_is_no_error_for_the_next_pool() -> None:
    with serve(lambda body, n: completion("I cannot.")) as server:
        main(command(server))
    assert read("enhanced.jsonl") == []
    main(NEXT)


@pytest.mark.parametrize("replies", [2, 8, 12])
def test_a_kill_costs_no_reply(replies: int) -> None:
    journal = Path("enhanced.jsonl.teacher.jsonl")

    def entries() -> list[str]:
        lines = journal.read_text().splitlines(True) if journal.is_file() else []
        return [line for line in lines if line.endswith("\n")][1:]

    with serve(teach) as server:
        words = [sys.executable, "-m", "wdl", *command(server)]
        with Path("log").open("wb") as log:
            run = subprocess.Popen(words, stdout=log, stderr=log)
            wait_for(lambda: len(entries()) >= replies or run.poll() is not None, 60)
            run.send_signal(signal.SIGKILL)
            run.wait()
        kept = [json.loads(line) for line in entries()]
        before = len(server.bodies)
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        after = len(server.bodies) - before
        main([word.replace("enhanced.jsonl", "other.jsonl") for word in command(server)])
        undisturbed = len(server.bodies) - before - after
    assert len(kept) + after == undisturbed
    assert Path("enhanced.jsonl").read_bytes() == Path("other.jsonl").read_bytes()
    written = [file.read_text() for file in Path().rglob("*") if file.is_file()]
    assert not [text for text in [*written, done.stdout, done.stderr] if KEY in text]


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["--per_question", "0", "--solutions", "0", "--majority", "1"]
    assert refused(command(Server("http://host/v1"), *wrong), capsys).splitlines() == [
        "wdl: error: --per_question 0: it is at least 1",
        "wdl: error: --solutions 0: it is at least 1",
        "wdl: error: --majority 1.0: it lies in [0, 1)",
    ]
    faults = refused(command(Server("host")), capsys)
    assert "url host: give http://HOST[:PORT]/PATH" in faults
