"""Rows of sets of programs: every schema is read, every fault names its line."""

import base64
import json
import os
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from programs import BASIC, BIG, CALLS, HUMAN, PLUS, READS, SANITIZED, packed

from wdl.data.rows import RowError
from wdl.errors import UserError
from wdl.grading.code_tests import read_tests
from wdl.questions.benchmarks import Benchmark
from wdl.questions.code import code_problem
from wdl.questions.problems import load_problems

ROWS: dict[str, dict[str, Any]] = {
    "humaneval": HUMAN,
    "mbpp": BASIC,
    "sanitized": SANITIZED,
    "mbppplus": PLUS,
}
ROWS |= {"bigcodebench": BIG, "stdin": READS, "functional": CALLS}


@pytest.mark.parametrize("name", ROWS)
def test_every_schema_is_read(name: str) -> None:
    row = ROWS[name]
    identity, question, reference, tests = code_problem(row)
    assert identity == str(row.get("task_id", row.get("question_id")))
    assert "one code block that begins with ```python" in question
    assert reference.startswith("tests ") and len(reference) == 22
    styles = {"bigcodebench": "unittest", "stdin": "stdin", "functional": "call"}
    assert read_tests(tests)["style"] == styles.get(name, "check")


def test_what_is_asked_and_what_is_tested() -> None:
    assert HUMAN["prompt"].strip() in code_problem(HUMAN)[1]
    before = read_tests(code_problem(HUMAN)[3])["before"]
    assert before.startswith("from typing") and "def twice" in before and "total" not in before
    assert all(test in code_problem(BASIC)[1] for test in BASIC["test_list"])  # type: ignore[attr-defined]
    assert read_tests(code_problem(BASIC)[3])["entry"] == "turn"
    assert CALLS["starter_code"].strip() in code_problem(CALLS)[1]
    inputs = [case["input"] for case in read_tests(code_problem(READS)[3])["tests"]]
    assert inputs == ["1 2\n", "1 1 5"]


def test_packed_tests_stay_packed() -> None:
    case = {"input": "1\n" * 100_000, "output": "0", "testtype": "stdin"}
    row = {**READS, "private_test_cases": packed([case])}
    tests = code_problem(row)[3]
    assert len(tests) < 5_000
    assert read_tests(tests)["tests"][1] == case


def test_plain_private_tests_are_read() -> None:
    cases = json.dumps([{"input": "4", "output": "4", "testtype": "stdin"}])
    assert len(read_tests(code_problem({**READS, "private_test_cases": cases})[3])["tests"]) == 2


class Bomb:
    """What runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch unpickled",)


def test_a_pickle_that_runs_something_is_refused_and_runs_nothing() -> None:
    bad = base64.b64encode(zlib.compress(pickle.dumps(Bomb()))).decode()
    with pytest.raises(RowError, match="neither JSON nor a packed text"):
        code_problem({**READS, "private_test_cases": bad})
    assert not Path("unpickled").exists()


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ([], "a row is an object"),
        ({"question": "1+1?", "answer": "2"}, "no 'task_id'"),
        ({"task_id": "x", "question": "1+1?"}, "fits none of HumanEval"),
        ({**HUMAN, "task_id": True}, "no 'task_id'"),
        ({**HUMAN, "prompt": " "}, "'prompt' is missing or empty"),
        ({**HUMAN, "test": "assert True"}, "no check"),
        ({**HUMAN, "test": "def check(:"}, "'test' is not Python"),
        ({**HUMAN, "entry_point": "other"}, "begins no function 'other'"),
        ({**BASIC, "test_list": []}, "list of one assertion or more"),
        ({**BASIC, "test_list": ["assert ("]}, "'test_list' is not Python"),
        ({**BASIC, "challenge_test_list": "x"}, "'challenge_test_list' must be a list"),
        ({**SANITIZED, "test_imports": 3}, "'test_imports' must be"),
        ({**PLUS, "test": ""}, "'test' is missing or empty"),
        ({**BIG, "test": "x = 1"}, "no class TestCases"),
        ({**BIG, "libs": "os.system('x')"}, "'libs' must be"),
        ({**READS, "public_test_cases": "[", "private_test_cases": "[]"}, "is not JSON"),
        ({**READS, "public_test_cases": "[]", "private_test_cases": "[]"}, "one testtype, not 0"),
        ({**READS, "public_test_cases": CALLS["public_test_cases"]}, "one testtype, not 2"),
        ({**READS, "private_test_cases": "AAAA"}, "neither JSON nor a packed text"),
        ({**READS, "private_test_cases": "é"}, "neither JSON nor a packed text"),
        ({**READS, "public_test_cases": '[{"input": 1}]'}, "list of objects with input"),
        ({**CALLS, "metadata": "{}"}, "names no func_name"),
        ({**CALLS, "starter_code": ""}, "'starter_code' is missing"),
    ],
)
def test_faulty_rows(row: Any, fault: str) -> None:
    with pytest.raises(RowError, match=fault):
        code_problem(row)


def test_faults_name_file_and_line(write_rows: Callable[..., Path]) -> None:
    file = write_rows([HUMAN, {**HUMAN, "entry_point": ""}, HUMAN], "mine.jsonl")
    with pytest.raises(UserError) as caught:
        load_problems(Benchmark("mine", "code"), file)
    first, second = caught.value.faults
    assert first.startswith(f"{file}:2: 'entry_point' is missing")
    assert second.startswith(f"{file}:3: id 'Mine/0' occurs twice")


def test_the_number_of_rows_is_checked(write_rows: Callable[..., Path]) -> None:
    file = write_rows([HUMAN], "humaneval.jsonl")
    with pytest.raises(UserError, match="has 164 problems, this has 1"):
        load_problems(Benchmark("humaneval", "code", rows=164), file)
    (problem,) = load_problems(Benchmark("mine", "code"), file)
    assert (problem.id, len(problem.reference)) == ("Mine/0", 22)
