"""``wdl evaluate --by``: a teacher, alone or after rules, or one's own grader, as the judge."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import wait_for
from servers import Said, Server, completion, question, refusal, serve

from wdl.cli import main

KEY = "sk-very-secret-0123"
PROBLEMS = 20
OWN_GRADER = """
from wdl.grading.grader import BaseGrader, Grade


class AllRight(BaseGrader):
    def describe(self):
        return {"name": "all right"}

    def grade(self, tasks):
        return [Grade("correct", None) for _ in tasks]

    def report(self, tasks, grades):
        return {"seen": len(tasks)}
"""


def say(body: dict[str, Any], n: int) -> Said:
    """A student whose every second answer is right; a teacher who denies the second of all."""
    text = question(body)
    if body["model"] == "student":
        number = int(re.findall(r"\d+", text)[0])
        return completion(rf"It is \boxed{{{number + number % 2}}}.")
    if "<question>" not in text:
        return completion("{}")  # the probe
    number = int(re.findall(r"Repeat (\d+)", text)[0])
    verdict = {2: "wrong", 4: "unsure"}.get(number, "wrong" if number % 2 else "right")
    reply = {"reason": "so", "answer": str(number), "verdict": verdict}
    return completion(json.dumps(reply), seconds=0.1)


@pytest.fixture
def server(write_rows: Callable[..., Path]) -> Iterator[Server]:
    """A student and a teacher at one address, and a file of problems."""
    os.environ["MY_KEY"] = KEY
    write_rows([{"question": f"Repeat {n}.", "answer": f"{n}"} for n in range(PROBLEMS)], "p.jsonl")
    with serve(say) as server:
        yield server


def command(server: Server, *more: str, by: str = "teacher", url: str = "") -> list[str]:
    Path("student.yaml").write_text(
        "class_path: wdl.generation.openai_engine.OpenAIEngine\n"
        f"init_args: {{endpoint: {{url: '{server.url}', model: student}}}}\n"
    )
    teacher = ["--teacher.url", url or server.url, "--teacher.model", "m"]
    teacher += ["--teacher.in_flight", "2", "--teacher.retries", "0"]
    return [
        *("evaluate", "--model", "student=x/student", "--benchmarks", "arithmetic"),
        *("--data", "p.jsonl", "--protocol", "quick", "--engine", "student.yaml", "--out", "out"),
        *(("--by", by) if by else ()),
        *([*teacher, "--teacher.key_variable", "MY_KEY"] if "teacher" in by else []),
        *more,
    ]


def record() -> dict[str, Any]:
    return json.loads(Path("out/student/arithmetic.json").read_text())


def asked(server: Server, model: str) -> int:
    return sum(body["model"] == model for body in server.bodies)


def test_a_teacher_judges_and_is_compared_with_the_rules(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(server))
    found = record()
    assert found["results"]["correct"] == 8
    assert found["results"]["could_not_grade"] == 1
    assert found["inputs"]["grader"]["model"] == "m"
    both = {"both": 19, "agree": 18, "only_rules": 1, "only_teacher": 0}
    assert found["judge"]["agreement"] == both
    assert "You grade an attempt" in found["judge"]["prompt"]["system"]
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["teacher"]["replies"] == PROBLEMS + 1
    printed = capsys.readouterr().out
    assert "student on arithmetic: teacher and rules agree on 94.7% of 19 answers" in printed
    assert "teacher: 21 replies" in printed
    before = len(server.bodies)
    main(command(server))
    assert len(server.bodies) == before
    assert not [file for file in Path("out").rglob("*.*") if KEY.encode() in file.read_bytes()]


def test_rules_that_can_tell_ask_no_teacher(server: Server) -> None:
    main(command(server, by="rules_then_teacher"))
    assert record()["results"]["correct"] == PROBLEMS // 2
    assert asked(server, "m") == 1
    assert set(record()["judge"]) == {"prompt"}


def test_answers_are_judged_again_without_asking_for_them_again(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(server, by=""))
    assert "judge" not in record()
    with pytest.raises(SystemExit, match="2"):
        main(command(server))
    assert "grader" in capsys.readouterr().err
    main(command(server, "--regrade", "true"))
    assert record()["results"]["correct"] == 8
    assert (asked(server, "student"), asked(server, "m")) == (PROBLEMS, PROBLEMS + 1)


def test_a_grader_of_ones_own_judges(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_judge.py").write_text(OWN_GRADER)
    Path("own.yaml").write_text("class_path: own_judge.AllRight\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    main(command(server, by="own.yaml"))
    assert record()["results"]["accuracy"] == 1
    assert record()["judge"] == {"seen": PROBLEMS}


def test_a_kill_while_it_judges_costs_no_reply(server: Server) -> None:
    replies = Path("out/teacher.jsonl")

    def kept() -> int:
        return replies.read_bytes().count(b"\n") - 1 if replies.is_file() else 0

    words = [sys.executable, "-m", "wdl", *command(server)]
    with Path("log").open("wb") as log:
        run = subprocess.Popen(words, stdout=log, stderr=log)
        wait_for(lambda: kept() >= 6 or run.poll() is not None, 120)
        run.send_signal(signal.SIGKILL)
        run.wait()
    before, had = asked(server, "m"), kept()
    assert 6 <= had < PROBLEMS
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert asked(server, "student") == PROBLEMS
    assert asked(server, "m") - before == PROBLEMS + 1 - had
    assert record()["results"]["correct"] == 8
    assert KEY not in done.stdout + done.stderr + Path("log").read_text()


def test_a_teacher_that_fails_keeps_the_answers(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(body: dict[str, Any], n: int) -> Said:
        return refusal(500) if "<question>" in question(body) else completion("{}")

    with serve(fail) as broken, pytest.raises(SystemExit):
        main(command(server, url=broken.url))
    assert "student: the grader failed (" in capsys.readouterr().err
    main(command(server))
    assert record()["results"]["correct"] == 8
    assert asked(server, "student") == PROBLEMS


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--by", "teacher"], "--by teacher: name the teacher, by --teacher.url"),
        (["--by", "rules", "--teacher.url", "http://x/v1", "--teacher.model", "m"], "asks no"),
        (["--by", "oracle"], "'oracle'; choose from rules, teacher, rules_then_teacher"),
        (["--by", "none.yaml"], "none.yaml: there is no such file"),
        (["--by", "p.jsonl.yaml"], "p.jsonl.yaml: there is no"),
        (["--by", "teacher", "--protocol", "upstream"], "graded by upstream"),
        (["--by", "teacher", "--benchmarks", "own_set.yaml"], "own_set is graded by a grader"),
        (["--by", "teacher", "--benchmarks", "pictures.yaml"], "is not shown pictures, and pic"),
        (["--by", "teacher", "--teacher.url", "ftp://x"], "url ftp://x: give http://HOST"),
        (["--by", "teacher", "--teacher.key_variable", "NO_KEY"], "NO_KEY is not set"),
        (["--by", "teacher", "--teacher.url", "http://127.0.0.1:9/v1"], "the teacher does not ans"),
    ],
)
def test_bad_judges_end_before_anything_is_asked(
    server: Server, options: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save("x.png")
    Path("pictures.jsonl").write_text(
        json.dumps({"question": "<image>How many?", "answer": "2", "images": ["x.png"]}) + "\n"
    )
    Path("pictures.yaml").write_text("{name: pictures, kind: number, path: pictures.jsonl}")
    Path("own_set.yaml").write_text(
        "name: own_set\nkind: number\npath: p.jsonl\n"
        "grader: {class_path: wdl.grading.grader.Grader}\n"
    )
    words = command(server, by="")
    if "--benchmarks" in options:
        at = words.index("--data")
        words[at : at + 2] = []
    named = ["--teacher.model", "m", "--teacher.retries", "0"]
    if fault.startswith("--by teacher: name"):
        named = []
    elif "--teacher.url" not in options and "teacher" in options:
        named += ["--teacher.url", server.url]
    if "rules" in options or "teacher" not in options:
        named = []
    with pytest.raises(SystemExit) as end:
        main([*words, *options, *named])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert fault in error
    assert "Traceback" not in error
    assert asked(server, "student") == 0


def test_programs_are_run_and_not_judged(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"task_id": "HumanEval/0", "prompt": "def f():\n", "entry_point": "f"}
    row |= {"canonical_solution": "    return 1\n", "test": "def check(f):\n    assert f() == 1\n"}
    Path("code.jsonl").write_text(json.dumps(row) + "\n")
    Path("code.yaml").write_text("{name: mine, kind: code, path: code.jsonl, rows: 1}")
    words = command(server, "--benchmarks", "code.yaml", "--data", "code.jsonl")
    with pytest.raises(SystemExit):
        main(words)
    assert "mine is graded by running its programs" in capsys.readouterr().err
