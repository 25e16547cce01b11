"""A part of a benchmark, worked examples, thinking switched off, and answers that runs share."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wdl.branches.sources import load_tokenizer
from wdl.branches.template import render
from wdl.cli import main
from wdl.errors import UserError
from wdl.generation.protocols import Protocol, find_protocol
from wdl.questions.benchmarks import Benchmark
from wdl.questions.examples import Example, load_examples
from wdl.questions.problems import Problem

ROWS = 30


@pytest.fixture
def data(write_rows: Callable[..., Path]) -> Path:
    rows = [{"id": f"q{n}", "question": f"{n}+1?", "answer": str(n + 1)} for n in range(ROWS)]
    return write_rows(rows, "sums.jsonl")


@pytest.fixture
def examples(write_rows: Callable[..., Path]) -> Path:
    worked = [
        {"question": f"{n}+2?", "answer": f"{n} and 2 are {n + 2}.\n#### {n + 2}"} for n in range(9)
    ]
    asked = [{"question": " 3+1? ", "answer": "4"}]
    return write_rows([*asked, *worked], "worked.jsonl")


@pytest.fixture
def run(pair: tuple[Path, Path], data: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    protocol = tmp_path / "short.yaml"
    protocol.write_text("name: short\nmax_new_tokens: 6\n")

    def evaluate(out: str, *options: str) -> dict[str, Any]:
        command = ["evaluate", "--model", f"m={pair[0]}", "--benchmarks", "arithmetic"]
        command += ["--data", str(data), "--protocol", str(protocol), "--out", out, *options]
        main(command)
        return json.loads(Path(f"{out}/m/arithmetic.json").read_text())

    return evaluate


def ids(out: str) -> list[str]:
    lines = Path(f"{out}/m/arithmetic.jsonl").read_text().splitlines()
    return [json.loads(line)["id"] for line in lines]


def completions(out: str) -> list[str]:
    lines = Path(f"{out}/m/arithmetic.jsonl").read_text().splitlines()
    return [json.loads(line)["completion"] for line in lines]


def test_a_smaller_limit_asks_some_of_what_a_larger_one_asks(
    run: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    record = run("ten", "--limit", "10")
    assert "arithmetic: 10 of 30 problems (limit 10, seed 42)" in capsys.readouterr().out
    assert record["inputs"]["subset"] == {"problems": 10, "of": ROWS}
    assert record["inputs"]["protocol"]["limit"] == 10
    assert record["results"]["problems"] == 10
    run("five", "--limit", "5")
    assert len(ids("five")) == 5
    assert set(ids("five")) < set(ids("ten"))
    assert ids("ten") == sorted(ids("ten"), key=lambda one: int(one[1:])) != ids("ten")[::-1]
    other = Protocol("p", limit=10, seed=7).subset(
        [Problem(i, i, "1") for i in map(str, range(99))]
    )
    same = Protocol("p", limit=10, seed=8).subset([Problem(i, i, "1") for i in map(str, range(99))])
    assert other != same


def test_a_part_is_not_compared_with_the_whole(run: Callable[..., dict[str, Any]]) -> None:
    run("part", "--limit", "10")
    whole = run("whole")
    assert "limit" not in whole["inputs"]["protocol"]  # comparable with results from before
    with pytest.raises(SystemExit) as exit_:
        main(["compare", "part/m", "whole/m"])
    assert exit_.value.code == 2
    with pytest.raises(SystemExit):  # nor are they mixed
        run("part")


def test_the_orders_of_an_item_stay_together() -> None:
    problems = [Problem(f"{n}{order}", "?", "A", item=str(n)) for n in range(6) for order in "ab"]
    asked = Protocol("p", limit=5).subset(problems)
    assert len(asked) == 4
    assert [one.id[-1] for one in asked] == ["a", "b", "a", "b"]
    with pytest.raises(UserError, match="the first item alone has more"):
        Protocol("p", limit=1).subset(problems)


def test_examples_are_shown_before_each_question(
    run: Callable[..., dict[str, Any]], examples: Path
) -> None:
    record = run("shown", "--shots", "3", "--examples", str(examples))
    assert record["inputs"]["protocol"]["shots"] == 3
    assert len(record["inputs"]["examples_sha256"]) == 64
    assert record["inputs"]["prompt_sha256"] != run("bare")["inputs"]["prompt_sha256"]
    with pytest.raises(SystemExit):
        main(["compare", "shown/m", "bare/m"])


def test_examples_end_in_an_answer_and_ask_nothing_that_is_asked(examples: Path) -> None:
    found = load_examples(Benchmark("sums", "number"), examples)
    assert found[0] == Example("3+1?", "The answer is \\boxed{4}.")
    assert found[1] == Example("0+2?", "0 and 2 are 2.\n\nThe answer is \\boxed{2}.")
    problems = [Problem("a", "3+1?", "4")]
    shown = Protocol("p", shots=9).shown(found, problems)
    assert sorted(one.question for one in shown) == [f"{n}+2?" for n in range(9)]
    (request,) = Protocol("p", shots=2, system_prompt="Sum.").requests(problems, shown[:2])
    assert [message["role"] for message in request.messages] == [
        *("system", "user", "assistant", "user", "assistant", "user")
    ]
    assert request.messages[-1]["content"] == "3+1?"
    with pytest.raises(UserError, match=r"10 shots, and there are 9 examples .* \(10 in all\)"):
        Protocol("p", shots=10).shown(found, problems)


@pytest.mark.parametrize(
    ("kind", "row", "answer"),
    [
        ("expression", {"problem": "x", "solution": r"So \boxed{7}."}, r"So \boxed{7}."),
        (
            "letter",
            {"question": "x", "options": ["A)1", "B)2"], "correct": "B", "rationale": "Two."},
            "Two.\n\nThe answer is \\boxed{B}.",
        ),
        ("number", {"instruction": "x", "output": "3"}, "The answer is \\boxed{3}."),
        ("text", {"question": "x", "answer": "Paris"}, "<answer>Paris</answer>"),
    ],
)
def test_the_answer_of_an_example(
    kind: Any, row: dict[str, Any], answer: str, write_rows: Callable[..., Path]
) -> None:
    (found,) = load_examples(Benchmark("own", kind), write_rows([row], "own.jsonl"))
    assert found.answer == answer


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--limit", "0"], "limit is 0; ask at least 1 problem"),
        (["--limit", "-3"], "limit is -3"),
        (["--limit", "some"], "limit"),
        (["--shots", "-1"], "shots is -1"),
        (["--shots", "2"], "arithmetic: it has no examples to show; give --examples arithmetic="),
        (["--examples", "worked.jsonl"], "--examples: none are shown; say how many with --shots"),
        (["--shots", "1", "--examples", "nowhere.jsonl"], "nowhere.jsonl: there is no such file"),
        (
            ["--shots", "1", "--examples", "gsm8k=w.jsonl"],
            "--examples gsm8k=...: choose from arith",
        ),
        (["--shots", "40", "--examples", "worked.jsonl"], "40 shots, and there are 9 examples"),
        (["--shots", "1", "--examples", "broken.jsonl"], "broken.jsonl:1: the row has no answer"),
        (["--thinking", "maybe"], "thinking"),
        (["--cache", "worked.jsonl"], "it is no file of answers that can be used"),
        (["--cache", "."], "it is no file of answers that can be used"),
    ],
)
def test_wrong_options_end_before_any_model_is_loaded(
    run: Callable[..., Any],
    examples: Path,
    options: list[str],
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(examples.parent)
    Path("broken.jsonl").write_text('{"question": "1?"}\n')
    with pytest.raises(SystemExit) as exit_:
        run("out", *options)
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert fault in line
    assert not Path("out").exists()


def test_thinking_is_switched_by_the_template(
    run: Callable[..., dict[str, Any]], pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = load_tokenizer(str(pair[0]))
    asked = [{"role": "user", "content": "1+1?"}]
    template = pair[0] / "chat_template.jinja"
    if "enable_thinking" not in template.read_text():
        with pytest.raises(SystemExit):
            run("out", "--thinking", "false")
        assert "has no argument enable_thinking" in capsys.readouterr().err
        switch = "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
        template.write_text(template.read_text() + switch)
    tokenizer = load_tokenizer(str(pair[0]))
    assert render(tokenizer, asked, arguments={"enable_thinking": False}) != render(
        tokenizer, asked
    )
    on, off = run("on", "--thinking", "true"), run("off", "--thinking", "false")
    assert off["inputs"]["protocol"]["template"] == {"enable_thinking": False}
    assert on["inputs"]["prompt_sha256"] == run("default")["inputs"]["prompt_sha256"]
    assert off["inputs"]["prompt_sha256"] != on["inputs"]["prompt_sha256"]


def test_answers_are_shared_by_what_decides_about_them(
    run: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("part", "--limit", "10", "--cache", "answers.sqlite")
    capsys.readouterr()
    run("whole", "--cache", "answers.sqlite")
    assert "m on arithmetic: 10 of 30 answers are in" in capsys.readouterr().out
    run("alone")
    assert completions("whole") == completions("alone")
    assert not list(Path().rglob("*.journal.jsonl"))
    monkeypatch.delattr("wdl.generation.transformers_engine.model_class")  # generates no more
    run("again", "--cache", "answers.sqlite")
    assert completions("again") == completions("alone")
    with pytest.raises(NameError):  # other prompts, other answers
        run("other", "--thinking", "true", "--cache", "answers.sqlite")


def test_an_answer_of_the_cache_is_what_it_says(run: Callable[..., dict[str, Any]]) -> None:
    run("first", "--cache", "answers.sqlite")
    with sqlite3.connect("answers.sqlite") as database:
        assert database.execute("SELECT COUNT(*) FROM answers").fetchone() == (ROWS,)
        changed = {"completion": "\\boxed{1}", "finish_reason": "stop", "new_tokens": 1}
        database.execute("UPDATE answers SET answer = ?", [json.dumps(changed)])
    run("second", "--cache", "answers.sqlite")
    assert set(completions("second")) == {"\\boxed{1}"}


def test_a_protocol_says_what_it_said_before() -> None:
    """A record of one that has nothing new is equal to a record from before there was such."""
    assert not {"limit", "shots", "template"} & find_protocol("paper").describe().keys()
    whole = Protocol("p", limit=3, shots=2, template={"enable_thinking": False})
    assert Protocol(**whole.describe()) == whole
