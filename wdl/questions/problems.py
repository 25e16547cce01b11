r"""Rows of benchmark files as problems with reference answers.

A file is JSON, JSON Lines (also .zst) or Parquet, in any of the schemas of the maths sets:

    {"question", "answer"}                     GSM8K's "... #### 72" is understood
    {"instruction", "answer"}                  optional "input"; without "answer", "output"
    {"problem", "solution"}                    or "answer"; a solution ends in \boxed{}
    {"original_text", "ans"}
    {"prompt", "reward_model": {"ground_truth"}}
    {"question", "options", "correct"}         multiple choice, see :mod:`wdl.questions.choices`
    {"Body", "Question", "Answer"}             SVAMP's own
    {"text", "question", "options", "answer"}  LogiQA 2.0
    {"context", "question", "answers", "label"}    ReClor

each with an optional "id", and with pictures as :mod:`wdl.data.images` says. A context, passage,
article, paragraph or story, and a text beside options, stands before the question. Sets of
programming problems have schemas of their own, see :mod:`wdl.questions.code`.
"""

import math
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from wdl.config.paths import DATA_SUFFIXES
from wdl.data.images import PICTURES, check_marks, image_file, take_images
from wdl.data.rows import HubData, RowError, rows_of
from wdl.errors import MAX_FAULTS, UserError
from wdl.grading.answers import last_boxed
from wdl.questions.benchmarks import Benchmark
from wdl.questions.choices import choices
from wdl.questions.code import code_problem

QUESTION_KEYS = ("question", "instruction", "problem", "original_text", "prompt", "Question")
ANSWER_KEYS = ("answer", "ans", "correct", "Answer")
SOLUTION_KEYS = ("solution", "output")
ID_KEYS = ("id", "unique_id", "id_string")
CONTEXT_KEYS = ("context", "passage", "article", "paragraph", "story")


@dataclass(frozen=True)
class Problem:
    """One question with its reference answer; ``id`` is unique within its benchmark.

    ``tests`` are those of a program, see :mod:`wdl.questions.code`. ``images`` are the files of its
    pictures, each of which is ``<image>`` in the question; ``item`` is what it has in common with
    those that ask the same with the pictures in another order.
    """

    id: str
    question: str
    reference: str
    images: tuple[str, ...] = ()
    item: str | None = None
    tests: str = ""


def load_problems(benchmark: Benchmark, path: Path | None = None) -> list[Problem]:
    """All problems of a benchmark, from a file, or else its own, or else the hub.

    Raises:
        UserError: One line ``file:line: what; remedy`` for each faulty row; or the file, or the
            number of rows, is not the benchmark's.
    """
    file = path or (Path(benchmark.path) if benchmark.path else None)
    place = str(file or benchmark.hub)
    faults: list[str] = []
    problems: dict[str, Problem] = {}
    for line, row in benchmark_rows(benchmark, file, faults):
        try:
            folder = None if file is None else file.parent
            if benchmark.kind == "code":
                identity, question, reference, tests = code_problem(row)
                problem = Problem(identity, question, reference, tests=tests)
            else:
                problem = parse_problem(row, str(len(problems)), folder, benchmark.repeats)
            if benchmark.kind == "letter" and not re.fullmatch("[A-Za-z]", problem.reference):
                raise RowError(f"the answer is {problem.reference!r}; a choice is one letter")
            if benchmark.repeats:
                problem = replace(problem, id=_unused(problem.id, problems))
            if problem.id in problems:
                raise RowError(f"id {problem.id!r} occurs twice; make it unique or drop it")
        except RowError as fault:
            faults.append(f"{place}:{line}: {fault}")
            continue
        problems[problem.id] = problem
    if not faults and not problems:
        faults.append(f"{place}: the file is empty; it must hold at least one problem")
    if not faults and benchmark.rows not in (None, len(problems)):
        faults.append(
            f"{place}: {benchmark.name} has {benchmark.rows} problems, this has {len(problems)}; "
            "use the whole test set, or a benchmark of your own (YAML) for a part of it"
        )
    if faults:
        raise UserError(*faults[:MAX_FAULTS], total=len(faults))
    return list(problems.values())


def _unused(name: str, names: Container[str]) -> str:
    """The name, or "name-2", "name-3" and so on, whichever is the first that is not taken."""
    numbered = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(one for one in numbered if one not in names)


def parse_problem(
    row: Any, default_id: str, folder: Path | None = None, repeats: bool = False
) -> Problem:
    """One row of any schema as a problem.

    Args:
        row: The row.
        default_id: Of a row that has none.
        folder: What paths of pictures are relative to.
        repeats: Whether an option may occur twice.

    Raises:
        RowError: The row fits no schema, a field is empty, or a picture is not there.
    """
    if not isinstance(row, dict):
        raise RowError("a row is an object with a question and an answer; write {...}")
    row, images = take_images(row)
    row = {key: value for key, value in row.items() if value is not None}
    identity = next((row[key] for key in ID_KEYS if key in row), default_id)
    if not isinstance(identity, str | int) or isinstance(identity, bool):
        raise RowError("'id' is neither text nor number; mend it or drop it")
    options = choices(row, repeats)
    question = _question(row, has_options=options is not None)
    reference = _reference(row) if options is None else options[1]
    if options is not None:
        question = f"{question}\n\n{options[0]}"
    check_marks([{"content": question}], [], images)
    files = tuple(image_file(source, folder, PICTURES) for source in images)
    item = row.get("item") if images else None
    if item is not None and not isinstance(item, str):
        raise RowError(f"item is {item!r}; give it a text")
    return Problem(str(identity), question, reference, files, item)


def _question(row: dict[str, Any], has_options: bool) -> str:
    key = next((key for key in QUESTION_KEYS if row.get(key)), None)
    if key is None:
        raise RowError(f"the row has no question; give one of {', '.join(QUESTION_KEYS)}")
    text = _user_message(row[key]) if isinstance(row[key], list) else row[key]
    context = _context(row, text, has_options)
    parts = {**context, "Body": row.get("Body", ""), key: text, "input": row.get("input", "")}
    for name, part in parts.items():
        if not isinstance(part, str):
            raise RowError(f"{name!r} is {part!r}; give it a text")
    return "\n\n".join(part.strip() for part in parts.values() if part.strip())


def _context(row: dict[str, Any], question: Any, has_options: bool) -> dict[str, Any]:
    """What the question is about, under its key."""
    found = {key: row[key] for key in CONTEXT_KEYS if row.get(key)}
    text = row.get("text")
    # Sets to train on have a column "text" that is the whole row, formatted.
    if text and not (isinstance(text, str) and isinstance(question, str) and question in text):
        if not has_options:
            raise RowError(
                "'text' may belong to the question, or give its answer away; call it 'context' or "
                "drop it"
            )
        found["text"] = text
    if len(found) > 1:
        raise RowError(f"the row has both {' and '.join(found)}; keep one")
    return found


def _user_message(messages: Any) -> str:
    """The one question of a prompt that is a list of messages."""
    contents = [
        message.get("content")
        for message in messages
        if isinstance(message, dict) and message.get("role") == "user"
    ]
    if len(contents) != 1 or not isinstance(contents[0], str):
        raise RowError("prompt must be a text or hold exactly one user message")
    return contents[0]


def _reference(row: dict[str, Any]) -> str:
    reward = row.get("reward_model")
    if isinstance(reward, dict) and reward.get("ground_truth") is not None:
        return _filled(str(reward["ground_truth"]), "ground_truth")
    for key in ANSWER_KEYS:
        if key in row:
            if not isinstance(row[key], str | int | float) or isinstance(row[key], bool):
                raise RowError(f"{key!r} is {row[key]!r}; give it one text or number")
            if isinstance(row[key], float) and not math.isfinite(row[key]):
                raise RowError(f"{key!r} is {row[key]}, which no attempt can be; give a number")
            answer = str(row[key])
            return _filled(answer.rpartition("####")[2] if "####" in answer else answer, key)
    for key in SOLUTION_KEYS:
        if key in row:
            return _filled(_end_of_solution(str(row[key])), key)
    keys = ", ".join((*ANSWER_KEYS, *SOLUTION_KEYS, "reward_model.ground_truth"))
    raise RowError(f"the row has no answer; give one of {keys}")


def _end_of_solution(solution: str) -> str:
    if (boxed := last_boxed(solution)) is not None:
        return boxed
    stated = re.search(r"(?:####|answer is:?)\s*(.+?)\.?\s*$", solution)
    return stated[1] if stated else solution


def _filled(answer: str, key: str) -> str:
    if not answer.strip():
        raise RowError(f"{key!r} is empty; fill it in or drop the row")
    return answer.strip()


def benchmark_rows(
    benchmark: Benchmark, file: Path | None, faults: list[str]
) -> Iterator[tuple[int, Any]]:
    """Line, or number, and value of each row."""
    if file is not None:
        if not file.is_file():
            raise UserError(f"{file}: there is no such file; check its path")
        if not file.name.endswith(DATA_SUFFIXES):
            known = " or ".join(DATA_SUFFIXES)
            raise UserError(f"{file}: problems come as {known}; convert or rename it")
        return rows_of(file, faults)
    if benchmark.hub is None:
        raise UserError(
            f"--benchmarks {benchmark.name}: it is on no hub; give its file with --data"
        )
    names = (f"{benchmark.hub}:{config}" for config in benchmark.configs)
    parts = (HubData(name, benchmark.split, streams=False) for name in names)
    rows = chain.from_iterable(rows_of(part, faults) for part in parts)
    return enumerate((row for _, row in rows), start=1)
