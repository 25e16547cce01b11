"""``wdl evaluate`` on sets of programs, answered by an engine that knows the solutions."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from programs import SETS

from wdl.cli import main

ENGINE = '''
"""Answers with the programs of a file, right in the first ``right`` samples."""

import json
from pathlib import Path

from wdl.generation.engine import Engine, Generation


class Solver(Engine):
    def __init__(self, source: str, right: int) -> None:
        super().__init__(source)
        self.right = right
        self.solutions = json.loads(Path("solutions.json").read_text())

    def check(self, requests, sampling):
        Path("asked").touch()
        return {}

    def describe(self):
        return {"engine": {"name": "solver"}}

    def generate(self, requests, sampling, done=()):
        Path("generated").touch()
        for request in requests:
            good, bad = self.solutions[request.id]
            code = good if request.sample < self.right else bad
            yield [Generation(request.id, request.sample, f"```python\\n{code}\\n```", "stop", 1)]
'''


@pytest.fixture(autouse=True)
def files(write_rows: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    write_rows([row for row, _, _ in SETS.values()], "mine.jsonl")
    names = {row.get("task_id", row.get("question_id")): x for x in SETS.values() for row in [x[0]]}
    solutions = {str(name): [right, wrong[0]] for name, (_, right, wrong) in names.items()}
    Path("solutions.json").write_text(json.dumps(solutions))
    Path("solvers.py").write_text(ENGINE)
    Path("mine.yaml").write_text("name: mine\nkind: code\npath: mine.jsonl\n")
    Path("four.yaml").write_text("name: four\nsamples: 4\ntemperature: 1.0\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "solvers", raising=False)


def evaluate(right: int, *more: str, protocol: str = "quick") -> dict:
    Path("solver.yaml").write_text(f"class_path: solvers.Solver\ninit_args:\n  right: {right}\n")
    options = ["--model", "sol=any", "--benchmarks", "mine.yaml", "--protocol", protocol]
    main(["evaluate", *options, "--engine", "solver.yaml", "--out", "out", *more])
    return json.loads(Path("out/sol/mine.json").read_text())


def test_solutions_are_right_and_filed_in_short() -> None:
    found = evaluate(1)
    assert found["results"]["accuracy"] == 1.0
    grader = found["inputs"]["grader"]
    assert (grader["name"], grader["sandbox"]) == ("tests", "bubblewrap")
    rows = [json.loads(line) for line in Path("out/sol/mine.jsonl").read_text().splitlines()]
    assert all(re.fullmatch(r"tests \w{16}", row["reference"]) for row in rows)
    assert len({row["reference"] for row in rows}) == len(SETS)


def test_wrong_ones_are_wrong() -> None:
    found = evaluate(0)["results"]
    assert (found["accuracy"], found["wrong"]) == (0.0, len(SETS))


def test_some_of_several_samples(capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate(1, "--sandbox.seconds", "5", protocol="four.yaml")
    results = found["results"]
    assert found["inputs"]["grader"]["limits"]["seconds"] == 5.0
    assert [results[f"pass@{k}"]["value"] for k in (1, 2, 4)] == pytest.approx([0.25, 0.5, 1.0])
    assert "majority" not in results


def test_no_sandbox_is_said_before_anything_is_generated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit) as end:
        evaluate(1)
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "there is no bwrap" in line and "--sandbox.kind plain" in line
    assert not Path("asked").exists() and not Path("generated").exists()
    assert evaluate(1, "--sandbox.kind", "plain")["results"]["accuracy"] == 1.0


def test_a_library_that_is_missing_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    row = {**SETS["bigcodebench"][0], "libs": "['json', 'nothing_like_it']"}
    Path("mine.jsonl").write_text(json.dumps(row) + "\n")
    evaluate(1)
    assert "nothing_like_it (1)" in capsys.readouterr().out
