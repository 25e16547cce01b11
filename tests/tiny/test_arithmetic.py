"""The arithmetic problems: worked solutions that are right, and files that share no problem."""

import ast
import json
import operator
import re
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from wdl.errors import UserError
from wdl.tiny.arithmetic import generate, write_arithmetic

OUTPUT = re.compile(r"<think>([0-9*+=\n-]+)</think> <answer>\\boxed\{([0-9]+)\}</answer>")
OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def evaluate(expression: str) -> int:
    """The value of an expression, by Python's own grammar."""

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp):
            return OPERATORS[type(node.op)](value(node.left), value(node.right))
        assert isinstance(node, ast.Constant) and isinstance(node.value, int), ast.dump(node)
        return node.value

    return value(ast.parse(expression, mode="eval").body)


def expression_of(row: dict[str, str]) -> str:
    match = re.fullmatch(r"Compute ([0-9*+-]+)\.", row["instruction"])
    assert match, row["instruction"]
    return match[1]


def identity(row: dict[str, str]) -> tuple[tuple[int, ...], str]:
    """What makes a problem the same problem: its factors in any order, and what follows them."""
    match = re.fullmatch(r"(\d+)\*(\d+)(.*)", expression_of(row))
    assert match
    return tuple(sorted((int(match[1]), int(match[2])))), match[3]


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arithmetic") / "data"
    write_arithmetic(folder)
    return folder


def test_every_worked_solution_is_right() -> None:
    for row in islice(generate(seed=7), 5000):
        match = OUTPUT.fullmatch(row["output"])
        assert match, row["output"]
        steps = [step.split("=") for step in match[1].split("\n")]
        assert all(evaluate(work) == int(result) for work, result in steps), row
        assert str(evaluate(expression_of(row))) == steps[-1][1] == match[2] == row["answer"], row


def test_additions_and_subtractions_are_balanced() -> None:
    rows = list(islice(generate(seed=7), 3000))
    kinds = Counter(re.sub(r"\d+", "n", expression_of(row)) for row in rows)
    assert kinds.keys() == {"n*n+n", "n*n-n"}
    assert min(kinds.values()) > 1400


def test_files_have_the_default_sizes_and_rows_of_strings(folder: Path) -> None:
    sizes = {path.name: len(read(path)) for path in folder.iterdir()}
    assert sizes == {"train.jsonl": 1500, "heldout.jsonl": 500, "base.jsonl": 3000}
    row = read(folder / "heldout.jsonl")[0]
    assert row.keys() == {"instruction", "output", "answer"}
    assert all(isinstance(text, str) for text in row.values())


def test_no_problem_occurs_twice_not_even_with_its_factors_exchanged(folder: Path) -> None:
    problems = [identity(row) for path in folder.iterdir() for row in read(path)]
    assert len(set(problems)) == len(problems)


def test_problems_do_not_repeat_where_chance_would_repeat_them() -> None:
    # Half of the rows are subtractions, of which there are 60,200.
    problems = [identity(row) for row in islice(generate(seed=0), 30_000)]
    assert len(set(problems)) == len(problems)


def test_seed_decides_the_bytes(folder: Path, tmp_path: Path) -> None:
    write_arithmetic(tmp_path / "same")
    write_arithmetic(tmp_path / "other", seed=43)
    for path in folder.iterdir():
        assert (tmp_path / "same" / path.name).read_bytes() == path.read_bytes()
        here, there = read(path), read(tmp_path / "other" / path.name)
        shared = {identity(row) for row in here} & {identity(row) for row in there}
        assert len(shared) < len(here) / 10


def test_files_of_others_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"instruction": "mine"}\n')
    with pytest.raises(UserError, match=r"train\.jsonl: is there already"):
        write_arithmetic(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["train.jsonl"]
