"""A model behind a server, as an engine of ``wdl evaluate``: answers, records, kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import REPOSITORY
from servers import Server, completion, refusal, serve

from wdl.cli import main
from wdl.errors import UserError
from wdl.generation.engine import EngineName, Generation, Request, Sampling
from wdl.generation.engines import find_engine
from wdl.generation.openai_engine import OpenAIEngine
from wdl.generation.vllm_options import VllmOptions
from wdl.remote.endpoint import Budget, Endpoint

KEY = "sk-very-secret-0123"
SAMPLING = Sampling(max_new_tokens=9, temperature=0.5, top_p=0.9, seed=1)
REQUESTS = [
    Request(name, sample, [{"role": "user", "content": name}])
    for name in ("a", "b")
    for sample in range(3)
]


def generate(server: Server, *done: tuple[str, int], **settings: bool) -> list[Generation]:
    engine = OpenAIEngine("m", Endpoint(server.url, "m"), **settings)
    return [one for batch in engine.generate(REQUESTS, SAMPLING, done) for one in batch]


def test_each_attempt_is_a_request_with_a_seed_of_its_own() -> None:
    with serve(lambda body, n: completion(str(body["seed"]), tokens=3)) as server:
        first = {(one.id, one.sample): one for one in generate(server)}
        assert set(first) == {request.key for request in REQUESTS}
        assert len({one.completion for one in first.values()}) == 6
        body = server.bodies[0]
        assert (body["max_tokens"], body["temperature"], body["top_p"]) == (9, 0.5, 0.9)
        assert all(0 <= body["seed"] < 2**63 for body in server.bodies)
        (rest,) = generate(server, *(key for key in first if key != ("b", 1)))
    assert rest == first["b", 1] == Generation("b", 1, rest.completion, "stop", 3)


@pytest.mark.parametrize(
    ("reason", "mapped"), [("stop", "stop"), ("length", "length"), ("content_filter", "length")]
)
def test_why_an_answer_ends(reason: str, mapped: str) -> None:
    with serve(lambda body, n: completion("x", reason)) as server:
        assert {one.finish_reason for one in generate(server)} == {mapped}


def test_reasoning_that_a_server_keeps_apart_is_part_of_the_answer() -> None:
    said = completion("It is 4.")
    said.body = said.body.replace('"content"', '"reasoning_content": "2+2", "content"')
    with serve(lambda body, n: said) as server:
        assert {one.completion for one in generate(server)} == {"<think>2+2</think>It is 4."}


def test_a_thought_that_the_server_opens_is_recorded() -> None:
    engine = OpenAIEngine("m", Endpoint("http://host", "m"), thinking=True)
    assert engine.check(REQUESTS, SAMPLING) == {"thinking": True}


def test_arguments_of_the_chat_template_are_sent() -> None:
    off = {"enable_thinking": False}
    asked = [replace(request, template=off) for request in REQUESTS]
    with serve(lambda body, n: completion("x")) as server:
        engine = OpenAIEngine("m", Endpoint(server.url, "m"))
        assert sum(map(len, engine.generate(asked, SAMPLING))) == len(asked)
        assert {str(body["chat_template_kwargs"]) for body in server.bodies} == {str(off)}
        generate(server)
        assert "chat_template_kwargs" not in server.bodies[-1]
    twice = Endpoint(server.url, "m", extra={"chat_template_kwargs": {"enable_thinking": True}})
    with pytest.raises(UserError, match=r"endpoint\.extra holds chat_template_kwargs"):
        OpenAIEngine("m", twice).check(asked, SAMPLING)


def test_refused_requests_are_named_and_cost_no_other() -> None:
    found: list[Generation] = []

    def script(body: dict, n: int):
        bad = body["messages"][0]["content"] == "b"
        return refusal(400, "too long") if bad else completion("x")

    with serve(script) as server:
        engine = OpenAIEngine("m", Endpoint(server.url, "m"))
        with pytest.raises(UserError, match=r"3 of 6 requests .* of b: HTTP 400 \(too long\)"):
            for batch in engine.generate(REQUESTS, SAMPLING):
                found += batch
    assert {one.id for one in found} == {"a"}


def test_the_budget_of_a_run() -> None:
    with serve(lambda body, n: completion("x")) as server:
        engine = OpenAIEngine("m", Endpoint(server.url, "m", budget=Budget(tokens=100)))
        with pytest.raises(UserError, match="budget"):
            list(engine.generate(REQUESTS, SAMPLING))
    assert not server.bodies  # a request may take more than 100


@pytest.fixture
def command(write_rows: Callable[..., Path]) -> Callable[[Server], list[str]]:
    """What a user types, with the files that it names."""
    write_rows([{"question": f"{n}+0?", "answer": str(n)} for n in range(60)], "mine.jsonl")
    Path("mine.yaml").write_text("name: mine\npath: mine.jsonl\n")

    def make(server: Server) -> list[str]:
        Path("engine.yaml").write_text(
            "class_path: wdl.generation.openai_engine.OpenAIEngine\n"
            "init_args:\n  endpoint:\n"
            f"    url: {server.url}\n    model: m\n    key_variable: MY_KEY\n    in_flight: 4\n"
        )
        options = ["--model", "m=m", "--benchmarks", "mine.yaml", "--protocol", "quick"]
        return ["evaluate", *options, "--engine", "engine.yaml", "--out", "out"]

    return make


def answer(body: dict, n: int):
    text = body["messages"][-1]["content"].split("+")[0]
    return completion(f"It is \\boxed{{{text}}}.", seconds=0.1)


def test_a_killed_run_sends_no_answered_request_again(
    command: Callable[[Server], list[str]],
) -> None:
    os.environ["MY_KEY"] = KEY
    with serve(answer) as server:
        words = [sys.executable, "-m", "wdl", *command(server)]
        journal = Path("out/m/mine.journal.jsonl")
        with Path("log").open("wb") as log:
            run = subprocess.Popen(words, stdout=log, stderr=log)
            while not journal.is_file() or journal.read_bytes().count(b"\n") < 12:
                assert run.poll() is None, Path("log").read_text()
                time.sleep(0.02)
            run.send_signal(signal.SIGKILL)
            run.wait()
        lines = [line for line in journal.read_text().splitlines(True) if line[-1] == "\n"][1:]
        answered = {json.loads(line)["id"] for line in lines}
        before = len(server.bodies)
        assert 11 <= len(answered) < 60
        done = subprocess.run(words, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        asked = Counter(server.questions[before:])
    assert len(asked) == 60 - len(answered)
    assert set(asked.values()) == {1}
    record = json.loads(Path("out/m/mine.json").read_text())
    assert record["results"]["accuracy"] == 1.0
    assert record["inputs"]["engine"] == {"name": "openai", "model": "m", "extra": {}}
    assert server.keys == {f"Bearer {KEY}"}
    written = [file.read_text() for file in Path().rglob("*") if file.is_file()]
    assert not [text for text in [*written, done.stdout, done.stderr] if KEY in text]


def test_a_refused_key_is_one_line(
    command: Callable[[Server], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    os.environ["MY_KEY"] = KEY
    refused = refusal(401, f"Incorrect key {KEY}")
    with serve(lambda body, n: refused) as server, pytest.raises(SystemExit) as end:
        main(command(server))
    assert end.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == (
        f"wdl: error: {server.url}: HTTP 401: it refuses the key that MY_KEY holds; check both"
    )


def test_the_documented_file_is_one() -> None:
    os.environ["MY_KEY"] = KEY
    text = (REPOSITORY / "docs" / "teacher.md").read_text()
    Path("server.yaml").write_text(text.split("# server.yaml\n")[1].split("```")[0])
    made = find_engine(EngineName("server.yaml"), VllmOptions())("m")
    assert isinstance(made, OpenAIEngine)
    assert len(made.endpoint.urls) == 2
    assert made.check(REQUESTS, SAMPLING) == {"thinking": True}
