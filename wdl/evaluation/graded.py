"""Graded answers read back from the folder OUT/MODEL of an evaluation, every row looked at."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wdl.errors import UserError
from wdl.grading.grader import STATUSES

MAKE_AGAIN = "evaluate the model again into another folder"


@dataclass(frozen=True)
class Graded:
    """The graded answers of one model to one benchmark: share of right answers by problem."""

    file: Path
    inputs: dict[str, Any]
    results: dict[str, Any]
    samples: int
    scores: dict[str, float]


def read_graded(folder: Path, names: Collection[str] | None = None) -> dict[str, Graded]:
    """The results of a model by benchmark; of those with ``names`` alone, if given.

    Raises:
        UserError: The folder holds no results, or broken ones; one line per fault, with its file
            and line.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give OUT/MODEL of an evaluation")
    graded: dict[str, Graded] = {}
    faults: list[str] = []
    for file in sorted(folder.glob("*.json")):
        if names is not None and file.stem not in names:
            continue
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            if not (isinstance(record, dict) and "inputs" in record):
                continue
            samples, inputs = record["results"]["samples"], dict(record["inputs"])
        except (ValueError, KeyError, TypeError):
            faults.append(f"{file}: it is no whole record of an evaluation; {MAKE_AGAIN}")
            continue
        answers = file.with_suffix(".jsonl")
        if not answers.is_file():
            faults.append(f"{answers}: the answers of {file.name} are not there; {MAKE_AGAIN}")
            continue
        right = _read_answers(answers, faults)
        faults += [
            f"{answers}: problem {problem!r} has {len(rows)} answers, not {samples}; {MAKE_AGAIN}"
            for problem, rows in right.items()
            if len(rows) != samples
        ]
        expected = record["results"].get("problems", len(right))
        if len(right) != expected:
            faults.append(f"{answers}: {len(right)} problems, not {expected}; {MAKE_AGAIN}")
        scores = {problem: sum(rows.values()) / len(rows) for problem, rows in right.items()}
        graded[file.stem] = Graded(answers, inputs, record["results"], samples, scores)
    if faults:
        raise UserError(*faults)
    if not graded:
        raise UserError(f"{folder}: it holds no results; give OUT/MODEL of an evaluation")
    return graded


def _read_answers(file: Path, faults: list[str]) -> dict[str, dict[int, bool]]:
    """Whether each answer is right, by problem and sample."""
    right: dict[str, dict[int, bool]] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            row = json.loads(line)
            problem, sample, status = row["id"], row["sample"], row["status"]
            if status not in STATUSES:
                raise ValueError(status)
            answers = right.setdefault(problem, {})
            if sample in answers:
                faults.append(
                    f"{file}:{number}: sample {sample} of problem {problem!r} is there already; "
                    f"{MAKE_AGAIN}"
                )
            answers[sample] = status == "correct"
        except (ValueError, KeyError, TypeError):
            faults.append(f"{file}:{number}: it is no graded answer; {MAKE_AGAIN}")
    return right
