"""Worked examples of a benchmark, which a model is shown before each question (few-shot).

They are rows as of :mod:`wdl.questions.problems`, from a file or from another split of the set on
the hub. What is shown as the answer is the worked solution of the row, if it has one ("solution",
"rationale", "output", or GSM8K's "answer"), and at its end the final answer as graders read it.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wdl.data.rows import RowError
from wdl.errors import MAX_FAULTS, UserError
from wdl.grading.answers import last_boxed
from wdl.grading.grader import Kind
from wdl.questions.benchmarks import Benchmark
from wdl.questions.problems import Problem, benchmark_rows, parse_problem

WORKED_KEYS = ("solution", "rationale", "output", "answer")


@dataclass(frozen=True)
class Example:
    """A question and what a model could have answered."""

    question: str
    answer: str


def load_examples(benchmark: Benchmark, path: Path | None = None) -> list[Example]:
    """All examples of a benchmark, from a file, or else its own, or else its split on the hub.

    Raises:
        UserError: There are none to be had, or one line for each faulty row.
    """
    if benchmark.kind == "code":
        raise UserError(f"{benchmark.name}: programs are asked for without examples; drop --shots")
    file = path or (Path(benchmark.examples) if benchmark.examples else None)
    if file is None and benchmark.examples_split is None:
        name = benchmark.name
        raise UserError(f"{name}: it has no examples to show; give --examples {name}=FILE")
    source = replace(benchmark, split=benchmark.examples_split or benchmark.split)
    faults: list[str] = []
    examples = []
    for line, row in benchmark_rows(source, file, faults):
        try:
            problem = parse_problem(row, default_id=str(line), folder=file and file.parent)
            if problem.images:
                raise RowError("it has pictures, which examples are not shown with; leave it out")
            examples.append(Example(problem.question, _answer(row, problem, benchmark.kind)))
        except RowError as fault:
            faults.append(f"{file or benchmark.hub}:{line}: {fault}")
    if faults:
        raise UserError(*faults[:MAX_FAULTS], total=len(faults))
    return examples


def _answer(row: dict[str, Any], problem: Problem, kind: Kind) -> str:
    worked = _worked(row, problem.reference)
    if kind == "text":
        return f"{worked}\n\n<answer>{problem.reference}</answer>".strip()
    if last_boxed(worked) is not None:
        return worked
    return f"{worked}\n\nThe answer is \\boxed{{{problem.reference}}}.".strip()


def _worked(row: dict[str, Any], reference: str) -> str:
    """The solution of a row without its final line; empty if it says no more than the answer."""
    texts = (row.get(key) for key in WORKED_KEYS)
    solutions = (text.partition("####")[0].strip() for text in texts if isinstance(text, str))
    return next((text for text in solutions if text and text != reference), "")
