"""Benchmark files in every schema, and what is wrong with those that cannot be used."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from wdl.errors import UserError
from wdl.grading.grader import Grader, Task
from wdl.questions.benchmarks import BENCHMARKS, Benchmark
from wdl.questions.problems import Problem, load_problems, parse_problem

ANY = Benchmark("any")
# The tests' folder changes, and the variable may hold a relative path.
REAL = (
    Path(os.environ["WDL_BENCHMARK_DATA"]).absolute()
    if "WDL_BENCHMARK_DATA" in os.environ
    else None
)


@pytest.mark.parametrize(
    ("row", "question", "reference"),
    [
        ({"question": "1+1?", "answer": "2"}, "1+1?", "2"),
        ({"question": "1+1?", "answer": "One and one.\n#### 2"}, "1+1?", "2"),
        ({"instruction": "1+1?", "answer": 2}, "1+1?", "2"),
        (
            {"instruction": "Add.", "input": "1+1", "output": "=2", "answer": "2.0"},
            "Add.\n\n1+1",
            "2.0",
        ),
        ({"instruction": "1+1?", "input": "", "output": "A: The answer is 2."}, "1+1?", "2"),
        ({"original_text": "1+1?", "ans": "2"}, "1+1?", "2"),
        ({"problem": "1+1?", "solution": r"It is $\boxed{\frac{4}{2}}$."}, "1+1?", r"\frac{4}{2}"),
        ({"problem": "1+1?", "solution": "long", "answer": "2"}, "1+1?", "2"),
        (
            {
                "prompt": [{"role": "user", "content": "1+1?"}],
                "reward_model": {"ground_truth": "2"},
            },
            "1+1?",
            "2",
        ),
        ({"prompt": "1+1?", "reward_model": {"ground_truth": 0}}, "1+1?", "0"),
        ({"question": "1+1?", "options": ["A)1", "B)2"], "correct": "B"}, "1+1?\n\nA)1\nB)2", "B"),
        ({"Body": "One.", "Question": "Plus one?", "Answer": 2.0}, "One.\n\nPlus one?", "2.0"),
    ],
)
def test_schemas(row: dict[str, Any], question: str, reference: str) -> None:
    assert parse_problem(row, "7") == Problem("7", question, reference)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_file_types_hold_the_same_problems(tmp_path: Path, suffix: str) -> None:
    rows = [{"question": f"{n}+1?", "answer": str(n + 1), "id": f"p{n}"} for n in range(3)]
    file = tmp_path / f"rows{suffix}"
    if suffix == ".json":
        file.write_text(json.dumps(rows))
    elif suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    expected = [Problem(f"p{n}", f"{n}+1?", str(n + 1)) for n in range(3)]
    assert load_problems(ANY, file) == expected


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"answer": "2"}, "the row has no question"),
        ({"question": "1+1?"}, "the row has no answer"),
        ({"question": "1+1?", "answer": " "}, "'answer' is empty"),
        (
            {"prompt": [{"role": "system", "content": "x"}], "answer": "2"},
            "exactly one user message",
        ),
        (["1+1?", "2"], "a row is an object"),
    ],
)
def test_faulty_rows_are_named(write_rows: Callable[..., Path], row: Any, fault: str) -> None:
    file = write_rows([{"question": "1?", "answer": "1"}, row])
    with pytest.raises(UserError, match=fault) as caught:
        load_problems(ANY, file)
    assert str(caught.value).startswith(f"{file}:2: ")


def test_equal_ids_are_refused(write_rows: Callable[..., Path]) -> None:
    file = write_rows([{"id": 1, "question": "1?", "answer": "1"}] * 2)
    with pytest.raises(UserError, match=r":2: id '1' occurs twice"):
        load_problems(ANY, file)


def test_another_number_of_rows_is_refused(write_rows: Callable[..., Path]) -> None:
    file = write_rows([{"question": "1?", "answer": "1"}])
    with pytest.raises(UserError, match="aime2025 has 30 problems, this has 1"):
        load_problems(BENCHMARKS["aime2025"], file)


@pytest.mark.parametrize(
    ("name", "contents", "fault"),
    [
        ("none.json", None, "no such file"),
        ("empty.jsonl", "", "the file is empty"),
        ("rows.csv", "a,b", "convert or rename"),
        ("rows.parquet", "PAR?", "damaged Parquet data"),
        ("rows.json", "[{", "broken JSON"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, contents: str | None, fault: str) -> None:
    file = tmp_path / name
    if contents is not None:
        file.write_text(contents)
    with pytest.raises(UserError, match=fault):
        load_problems(ANY, file)


def test_without_file_or_hub_there_is_a_remedy() -> None:
    with pytest.raises(UserError, match="give its file with --data"):
        load_problems(BENCHMARKS["mawps"])


@pytest.mark.skipif(REAL is None, reason="WDL_BENCHMARK_DATA names no folder")
@pytest.mark.parametrize(("name", "file"), [("amc23", "amc23.json"), ("gsm8k", "gsm8k_test.json")])
def test_real_references_are_graded_as_equal_to_themselves(name: str, file: str) -> None:
    assert REAL is not None
    benchmark = BENCHMARKS[name]
    problems = load_problems(benchmark, REAL / file)
    assert len(problems) == benchmark.rows
    with Grader() as grader:
        grades = grader.grade(
            Task(
                benchmark.kind,
                problem.question,
                # written a little differently, so that not only the texts are compared
                problem.reference,
                f"<think></think> <answer>\\boxed{{ {problem.reference} + 0 }}</answer>",
                complete=True,
            )
            for problem in problems
        )
    assert {grade.status for grade in grades} == {"correct"}
