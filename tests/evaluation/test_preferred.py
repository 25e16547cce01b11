"""``wdl compare --teacher``: answers judged in pairs, in both orders."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import wait_for
from servers import Said, Server, completion, question, refusal, serve

from wdl.cli import main
from wdl.grading.pairwise import Pair, PairwiseJudge
from wdl.remote.endpoint import Teacher
from wdl.remote.teacher import TeacherClient

KEY = "sk-very-secret-0123"
INPUTS = {"data_sha256": "d", "protocol": {"name": "quick"}, "grader": {"rules": 1}}


def write(model: str, texts: list[Any], benchmark: str = "sums", **more: Any) -> str:
    """The answers of a model, one or a list of them to each problem; none is right."""
    folder = Path(model)
    folder.mkdir(exist_ok=True)
    rows = [text if isinstance(text, list) else [text] for text in texts]
    answers = [
        {
            **{"id": f"p{n}", "sample": sample, "status": "wrong"},
            **{"question": f"Question {n}?", "reference": "4", "completion": text, **more},
        }
        for n, row in enumerate(rows)
        for sample, text in enumerate(row)
    ]
    record = {"inputs": INPUTS, "results": {"samples": len(rows[0])}}
    (folder / f"{benchmark}.json").write_text(json.dumps(record))
    lines = "".join(json.dumps(answer) + "\n" for answer in answers)
    (folder / f"{benchmark}.jsonl").write_text(lines)
    return model


def better(name: str) -> Said:
    return completion(json.dumps({"reason": "so", "better": name}), seconds=0.02)


def shown(body: dict[str, Any]) -> tuple[str, str] | None:
    """Both answers in the order in which a request has them; None of the probe."""
    found = re.search(r"<first>\n(.*)\n</first>\n<second>\n(.*)\n</second>", question(body), re.S)
    return (found[1], found[2]) if found else None


def longer(body: dict[str, Any], n: int) -> Said:
    """A judge who prefers what is longer, and holds answers of the same length for equal."""
    if (answers := shown(body)) is None:
        return completion("{}")
    first, second = map(len, answers)
    return better("tie" if first == second else "first" if first > second else "second")


def command(server: Server, *more: str) -> list[str]:
    teacher = ["--teacher.url", server.url, "--teacher.model", "m", "--teacher.in_flight", "2"]
    return ["compare", "a", "b", "--out", "out.json", *teacher, "--teacher.retries", "0", *more]


def result() -> dict[str, Any]:
    return json.loads(Path("out.json").read_text())


def test_an_answer_wins_if_it_is_preferred_in_both_orders(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    write("a", ["four"] * 8 + ["no!!", "same", "x<think>abc</think>same"])
    write("b", ["four, say"] * 8 + ["no", "same", "same"])
    with serve(longer) as server:
        main(command(server))
        before = len(server.bodies)
        main(command(server))
        assert len(server.bodies) == before
    said = result()["judge"]["benchmarks"]["sums"]
    counts = [said[key] for key in ("wins", "losses", "ties", "ungraded", "asked")]
    assert counts == [8, 1, 2, 0, 9]  # the same answers are a tie that nobody is asked about
    assert len(server.bodies) == 1 + 2 * 1 + 2 * 8
    assert said["score"] == pytest.approx(7 / 11)
    assert said["p_value"] == pytest.approx(2 * (1 + 9) / 2**9)  # McNemar's, exactly
    assert (said["consistent"], said["first_preferred"]) == (1, 0.5)
    assert "You compare two answers" in result()["judge"]["prompt"]["system"]
    printed = capsys.readouterr().out
    assert "preferred by m" in printed
    assert "…" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    rows = [json.loads(line) for line in Path("out.preferred.jsonl").read_text().splitlines()]
    assert rows[0] == {
        **{"a": "a", "b": "b", "benchmark": "sums", "id": "p0", "sample": 0},
        **{"preferred": "b", "places": ["second", "first"]},
    }
    assert "m prefers b in 8, a in 1 of 11 pairs" in "\n".join(result()["notes"])


def test_a_judge_who_prefers_a_place_prefers_nothing() -> None:
    write("a", [f"answer {n}" for n in range(6)])
    write("b", [f"another {n}" for n in range(6)])
    with serve(lambda body, n: better("first")) as server:
        main(command(server))
    said = result()["judge"]["benchmarks"]["sums"]
    assert (said["ties"], said["score"], said["p_value"]) == (6, 0, 1)
    assert (said["consistent"], said["first_preferred"]) == (0, 1)


def test_what_is_not_said_clearly_is_no_tie() -> None:
    write("a", ["longer 0", "longer 1", "longer 2"])
    write("b", ["0", "1", "2"])

    def script(body: dict[str, Any], n: int) -> Said:
        answers = shown(body)
        if answers and "1" in answers:
            return better("neither") if answers[0] == "1" else better("first")
        return longer(body, n)

    with serve(script) as server:
        main(command(server))
    said = result()["judge"]["benchmarks"]["sums"]
    counts = [said[key] for key in ("losses", "ties", "ungraded", "problems")]
    assert counts == [2, 0, 1, 2]
    assert said["score"] == -1
    rows = [json.loads(line) for line in Path("out.preferred.jsonl").read_text().splitlines()]
    assert rows[1]["detail"] == "the teacher's reply: no such object"
    assert rows[1]["places"] == ["first", None]


def test_several_answers_and_benchmarks_and_models() -> None:
    write("a", [["xx", "xx"], ["xx", "xx"]])
    write("b", [["xxx", "xx"], ["x", "x"]])
    write("c", [["xxx", "xxx"], ["xxx", "xxx"]])
    for model, text in {"a": "y", "b": "yy", "c": "y"}.items():
        write(model, [text], "products")
    with serve(longer) as server:
        main([*command(server)[:3], "c", *command(server)[3:]])
    first, second = (one["judge"] for one in result()["comparisons"])
    assert first["benchmarks"]["sums"]["score"] == pytest.approx((0.5 - 1) / 2)
    assert first["overall"]["score"] == pytest.approx((0.5 - 1 + 1) / 3)
    assert second["benchmarks"]["sums"]["score"] == 1
    assert second["overall"]["problems"] == 3


def test_pairs_are_judged_without_their_thoughts_and_with_the_reference() -> None:
    with serve(longer) as server:
        client = TeacherClient(Teacher(server.url, "m"), Path("replies.jsonl"))
        pair = Pair("2+2?", "4", "<think>long, long</think>4", "It is {5}.")
        (ruling,) = PairwiseJudge(client).judge([pair])
        client.close()
    assert ruling.preference == "b"
    orders = [shown(body) for body in server.bodies[1:]]
    assert sorted(filter(None, orders)) == [("4", "It is {5}."), ("It is {5}.", "4")]
    assert "<reference>\n4\n" in server.questions[1]


def test_a_kill_costs_no_reply() -> None:
    os.environ["MY_KEY"] = KEY
    write("a", [f"{n}" * 3 for n in range(10, 40)])
    write("b", [f"{n}" * 4 for n in range(10, 40)])
    replies = Path("out.teacher.jsonl")

    def kept() -> int:
        return replies.read_bytes().count(b"\n") - 1 if replies.is_file() else 0

    with serve(longer) as server:
        options = command(server, "--teacher.key_variable", "MY_KEY")
        words = [sys.executable, "-m", "wdl", *options]
        with Path("log").open("wb") as log:
            run = subprocess.Popen(words, stdout=log, stderr=log)
            wait_for(lambda: kept() >= 6 or run.poll() is not None, 120)
            run.send_signal(signal.SIGKILL)
            run.wait()
        before, had = len(server.bodies), kept()
        assert 6 <= had < 61
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len(server.bodies) - before == 61 - had
    assert result()["judge"]["benchmarks"]["sums"]["wins"] == 30
    written = [file.read_text() for file in Path().rglob("*.*") if file.is_file()]
    assert not [text for text in [*written, done.stdout, done.stderr] if KEY in text]


@pytest.mark.parametrize(
    ("said", "code", "fault"),
    [
        (refusal(401, KEY), 2, "HTTP 401: it wants a key"),
        (refusal(500), 1, "the teacher failed (1 requests got no reply"),
    ],
)
def test_what_ends_it(
    said: Said, code: int, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write("a", ["1"])
    write("b", ["2"])
    with serve(lambda body, n: said) as server, pytest.raises(SystemExit) as end:
        main(command(server))
    told = capsys.readouterr().err + str(end.value.code)
    assert fault in told
    assert (2 if end.value.code == 2 else 1) == code
    assert not Path("out.json").exists()


def test_answers_that_cannot_be_judged_in_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    def fault(*options: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(list(options))
        assert end.value.code == 2
        assert not server.bodies
        return capsys.readouterr().err

    with serve(longer) as server:
        write("a", ["1"])
        write("b", ["2"], images=["x.png"])
        words = command(server)
        assert "--teacher needs --out" in fault(*words[:3], *words[5:])
        assert "b/sums.jsonl:1: the problem has pictures, which a teacher" in fault(*words)
        write("b", [["2", "3"]])
        assert "answers to a problem: 1, in b/sums.jsonl: 2" in fault(*words)
        write("b", [None])
        assert "b/sums.jsonl:1: it has no question or answer" in fault(*words)
        write("b", ["2"])
        assert "url x: give http" in fault(*command(server, "--teacher.url", "x"))
