"""Whether answers are right: exactly, as numbers, as letters, or by math-verify.

Whatever can be decided by looking is decided here; the rest goes to worker processes with a time
limit. An answer that is not there because generation was cut off, and one that no grader can
judge, are counted apart from wrong ones.
"""

import os
import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from queue import Empty, SimpleQueue
from traceback import extract_tb
from typing import Any, Literal, Self, get_args

from wdl.errors import UserError
from wdl.grading.answers import find_answer, tagged_answer, value_in
from wdl.grading.notation import WRAPPERS, plain
from wdl.grading.plain_numbers import equal_in_base, equal_numbers
from wdl.system.child import Child, ChildFailure

Kind = Literal["number", "expression", "letter", "text", "code"]
Status = Literal["correct", "wrong", "cut_off", "could_not_grade"]
STATUSES: tuple[Status, ...] = get_args(Status)
# Raised whenever the same answer may be graded differently than before.
RULES_VERSION = 3
WORKER = "wdl.grading.math_worker"
START_LIMIT = 120.0  # seconds
_OPTION = re.compile(r"(?<![\w$\\])([A-Z])\s*[).:]")
_LETTER = re.compile(
    r"(?:(?:the )?(?:(?:final |correct )?answer|option|choice)(?: is)?[:\s]+)?"
    r"[(\[]?\s*([A-Z])\s*(?:[)\].:](?P<text>.*)|(?-i:[,;–—-](?P<more>.*)"
    r"|\s(?:because|since|as|for|which|with|is|due)\b.*))?",
    re.DOTALL | re.IGNORECASE,
)
# A second letter: "A) and B)", "A, B".
_SECOND = re.compile(r"[\s)\]]*(?:(?:and|or|,|&|/)\s*)+[(\[]?[A-Z](?![\w'])")


@dataclass(frozen=True)
class Task:
    """One completion to grade against the reference of its problem.

    ``thinking`` says that the prompt ended with an opened ``<think>``; ``tests`` are those of a
    program, as :mod:`wdl.questions.code` has them.
    """

    kind: Kind
    question: str
    reference: str
    completion: str
    complete: bool
    tolerance: float = 0.0
    thinking: bool = False
    tests: str = ""


@dataclass(frozen=True)
class Grade:
    """The verdict on one completion.

    Args:
        status: One of :data:`STATUSES`.
        answer: What the completion states as its answer, if anything.
        detail: Why it could not be graded, or what is missing.
    """

    status: Status
    answer: str | None
    detail: str = ""

    @property
    def is_sound(self) -> bool:
        """Whether all are what they should be."""
        is_answer = self.answer is None or isinstance(self.answer, str)
        return self.status in STATUSES and is_answer and isinstance(self.detail, str)


class BaseGrader(ABC):
    """Whatever can say whether answers are right.

    One of your own is a class in a module that Python finds, such as a file in the current folder;
    a benchmark's YAML names it by ``grader.class_path``.
    """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Name, version and all else that decides about grades, for the record."""

    @abstractmethod
    def grade(self, tasks: Iterable[Task]) -> list[Grade]:
        """A verdict on each task, in order."""

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Give back what the grader holds; it can grade no more."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def grades_by(grader: BaseGrader, tasks: Sequence[Task]) -> list[Grade]:
    """What a grader, which may be a user's own, says of each task.

    Raises:
        ChildFailure: What it needs fails for now.
        UserError: It raises anything else, or what it says are not the grades of these tasks.
    """
    name = f"the grader {type(grader).__module__}.{type(grader).__qualname__}"
    try:
        grades = list(grader.grade(tasks))
    except (ChildFailure, UserError):
        raise
    except Exception as error:
        at = extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{at.filename}:{at.lineno}: {name} fails ({type(error).__name__}: {error}); mend it"
        ) from error
    if len(grades) != len(tasks):
        raise UserError(f"{name} gives {len(grades)} grades to {len(tasks)} tasks; give each one")
    for grade in grades:
        if not isinstance(grade, Grade) or not grade.is_sound:
            raise UserError(
                f"{name} gives {grade!r}; give a Grade whose status is one of "
                f"{', '.join(STATUSES)}, its answer a text or None and its detail a text"
            )
    return grades


class Grader(BaseGrader):
    """Grades completions, the difficult ones in worker processes that start when needed.

    Args:
        workers: Number of processes; by default as many as there are cores.
        limit: Seconds that one answer may take.
    """

    def __init__(self, workers: int | None = None, limit: float = 10.0) -> None:
        self.limit = limit
        self._threads = ThreadPoolExecutor(workers or os.cpu_count() or 1)
        self._idle: SimpleQueue[Child] = SimpleQueue()

    def describe(self) -> dict[str, Any]:
        """Name and versions, for the record."""
        return {"name": "math-verify", "version": version("math-verify"), "rules": RULES_VERSION}

    def grade(self, tasks: Iterable[Task]) -> list[Grade]:
        """A verdict on each task, in order."""
        return list(self._threads.map(self._grade, tasks))

    def close(self) -> None:
        """End the workers."""
        self._threads.shutdown()
        while not self._idle.empty():
            self._idle.get().close()

    def _grade(self, task: Task) -> Grade:
        answer = None
        try:
            find = tagged_answer if task.kind == "text" else find_answer
            answer = find(task.completion, task.complete, task.thinking)
            if answer is None:
                missing = Grade("wrong", None, "no answer")
                return missing if task.complete else Grade("cut_off", None, "no answer yet")
            if not answer:
                return Grade("wrong", answer, "empty answer")
            return Grade("correct" if self._compare(task, answer) else "wrong", answer)
        except ChildFailure as failure:
            return Grade("could_not_grade", answer, str(failure))
        except Exception as error:  # whatever a model writes costs its own row alone
            return Grade("could_not_grade", answer, f"{type(error).__name__}: {error}")

    def _compare(self, task: Task, answer: str) -> bool:
        if task.kind == "text":
            return answer.split() == task.reference.split()
        reference = plain(task.reference)
        if plain(answer) == reference:
            return True
        if task.kind == "letter":
            return self._same_choice(task, answer)
        value = plain(value_in(answer))
        if value == reference:
            return True
        if (same := equal_in_base(value, reference)) is not None:
            return same
        equal = equal_numbers(value, reference, task.tolerance)
        if equal or (equal is not None and task.kind == "number"):
            return equal
        return self._verify(value, [reference])[0]

    def _same_choice(self, task: Task, answer: str) -> bool:
        """By its letter, or by a value that is that of exactly this choice."""
        reference = _letter(task.reference) or task.reference
        letter = _letter(answer) or _letter(value_in(answer))
        if letter:
            return letter == reference
        if not (choices := parse_choices(task.question)):
            return False
        equal = self._verify(plain(value_in(answer)), [plain(value) for value in choices.values()])
        return [name for name, fits in zip(choices, equal, strict=True) if fits] == [reference]

    def _verify(self, answer: str, references: Sequence[str]) -> list[bool]:
        """Which references the answer equals, says math-verify in a worker.

        Raises:
            ChildFailure: The worker did not start, died, took too long or could not read a
                reference.
        """
        worker = self._worker()
        try:
            worker.send({"answer": answer, "references": list(references)})
            response = worker.receive(self.limit)
        except BaseException:
            worker.close()
            raise
        self._idle.put(worker)
        if "error" in response:
            raise ChildFailure(response["error"])
        return response["equal"]

    def _worker(self) -> Child:
        """One that is idle, or a new one that has loaded all, which does not count as grading."""
        with suppress(Empty):
            return self._idle.get_nowait()
        worker = Child([sys.executable, "-m", WORKER])
        try:
            worker.receive(START_LIMIT)
        except ChildFailure:
            worker.close()
            raise
        return worker


def parse_choices(question: str) -> dict[str, str]:
    """Letter and value of each option that a question lists, ``A) 21`` or ``(A) 21``."""
    marks: list[re.Match[str]] = []
    for mark in _OPTION.finditer(question):
        if mark[1] == "A":
            marks = [mark]
        elif marks and ord(mark[1]) == ord(marks[-1][1]) + 1:
            marks.append(mark)
    ends = [*(mark.start() for mark in marks[1:]), len(question)]
    return {
        mark[1]: question[mark.end() : end].strip(" ,;.\n(")
        for mark, end in zip(marks, ends, strict=False)
    }


def _letter(answer: str) -> str | None:
    """The one letter that an answer names."""
    match = _LETTER.fullmatch(plain(WRAPPERS.sub(r"\1", answer)))
    if match is None:
        return None
    rest = match["text"] if match["more"] is None else f",{match['more']}"
    return None if rest and _SECOND.match(rest) else match[1].upper()
