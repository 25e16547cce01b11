"""An engine and a grader of one's own: a file and a YAML each, found from the current folder."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from wdl.callbacks.evaluation import Evaluation

from wdl.cli import main
from wdl.config.paths import ModelSource
from wdl.errors import UserError
from wdl.evaluation.apart import evaluate_apart
from wdl.evaluation.sources import Sources
from wdl.generation.engine import EngineName

ENGINE = '''
"""Answers every question with the same words."""

from wdl.errors import UserError
from wdl.generation.engine import Engine, Generation


class Parrot(Engine):
    def __init__(self, source: str, words: str, room: int = 1000) -> None:
        super().__init__(source)
        self.words = words
        self.room = room

    def check(self, requests, sampling):
        if sampling.max_new_tokens > self.room:
            raise UserError(f"{sampling.max_new_tokens} new tokens are too many")
        return {"prompts": [request.messages for request in requests]}

    def describe(self):
        return {"engine": {"name": "parrot", "words": self.words, "source": self.source}}

    def generate(self, requests, sampling, done=()):
        for request in requests:
            if request.key not in done:
                yield [Generation(request.id, request.sample, self.words, "stop", 1)]
'''
GRADER = '''
"""Holds an answer to be right if it is at least as long as the reference."""

from wdl.grading.grader import BaseGrader, Grade


class Longer(BaseGrader):
    def __init__(self, by: int = 0) -> None:
        self.by = by

    def describe(self):
        return {"name": "longer", "by": self.by}

    def grade(self, tasks):
        return [self.one(task) for task in tasks]

    def one(self, task):
        longer = len(task.completion) >= len(task.reference) + self.by
        return Grade("correct" if longer else "wrong", task.completion)
'''


PARROT = "class_path: parrots.Parrot\n"


@pytest.fixture(autouse=True)
def files(write_rows: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a user has written, in the current folder."""
    write_rows([{"question": "?", "answer": "x" * n} for n in (1, 2, 3, 4)], "mine.jsonl")
    Path("parrots.py").write_text(ENGINE)
    Path("lengths.py").write_text(GRADER)
    Path("parrot.yaml").write_text(f"{PARROT}init_args:\n  words: ab\n")
    Path("mine.yaml").write_text(
        "name: mine\npath: mine.jsonl\n"
        "grader:\n  class_path: lengths.Longer\n  init_args:\n    by: -1\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("parrots", "lengths"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def command(*more: str) -> list[str]:
    options = ["--model", "polly=anything", "--benchmarks", "mine.yaml", "--protocol", "quick"]
    return ["evaluate", *options, "--engine", "parrot.yaml", "--out", "out", *more]


def record() -> dict:
    return json.loads(Path("out/polly/mine.json").read_text())


def test_both_are_used_and_recorded() -> None:
    main(command())
    found = record()
    assert found["results"]["accuracy"] == 0.75
    assert found["inputs"]["grader"] == {"name": "longer", "by": -1}
    engine = found["inputs"]["engine"]
    assert (engine["name"], engine["words"]) == ("parrot", "ab")
    assert found["inputs"]["prompts"][0] == [{"role": "user", "content": "?"}]


def test_another_argument_is_another_result() -> None:
    main(command())
    Path("parrot.yaml").write_text(f"{PARROT}init_args:\n  words: abc\n")
    with pytest.raises(SystemExit) as end:
        main(command())
    assert end.value.code == 2
    assert record()["inputs"]["engine"]["words"] == "ab"


def test_the_installed_command_finds_them() -> None:
    """Which, other than ``python -m wdl``, does not look into the current folder by itself."""
    wdl = Path(sys.executable).with_name("wdl")
    subprocess.run([wdl, *command()], check=True, capture_output=True)
    assert record()["results"]["accuracy"] == 0.75


def test_an_evaluation_apart_finds_them() -> None:
    options = ["--benchmarks", "mine.yaml", "--protocol", "quick", "--engine", "parrot.yaml"]
    summary = evaluate_apart({"polly": "anything"}, Path("out"), options)
    assert summary["models"]["polly"]["mine"] == record()


def test_two_models_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    main([*command(), "--model", "one=this,two=that"])
    capsys.readouterr()
    main(["compare", "out/one", "out/two"])
    printed = capsys.readouterr().out
    assert "note: mine: the two models have another engine" in printed
    assert "prompts" not in printed


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("class_path: parrots.Nobody\n", "parrot.yaml: .*has no attribute 'Nobody'"),
        ("class_path: nowhere.Parrot\n", "parrot.yaml: .*No module named 'nowhere'"),
        ("class_path: lengths.Longer\n", "parrot.yaml: .*lengths.Longer"),
        (PARROT, "parrot.yaml: .*words"),
        (f"{PARROT}init_args: {{words: a, n: 1}}\n", "parrot.yaml: .*'n'"),
        ("words: a\n", "parrot.yaml: .*'words'"),
        ("[\n", "parrot.yaml:2: is not YAML"),
        ("", "parrot.yaml:1: holds no keys"),
        (f"{PARROT}init_args: {{words: a, room: 9}}\n", "polly on mine: 256 new tokens are"),
    ],
)
def test_mistakes(text: str, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("parrot.yaml").write_text(text)
    with pytest.raises(SystemExit) as end:
        main(command())
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(fault, line), line


def test_a_fit_refuses_them_at_its_start() -> None:
    main(command())  # which makes the current folder known
    evaluation = Evaluation(
        "mine.yaml",
        engine=EngineName("parrot.yaml"),
        data=Sources("mine.jsonl"),
    )
    evaluation.check_inputs(ModelSource("anything"))
    Path("parrot.yaml").write_text(f"{PARROT}init_args: {{words: a, room: 9}}\n")
    with pytest.raises(UserError, match=r"evaluation: model\.strong on mine: 256 new tokens"):
        evaluation.check_inputs(ModelSource("anything"))
