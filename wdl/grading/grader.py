"""Whether answers are right: exactly, as numbers, as letters, or by math-verify.

Whatever can be decided by looking is decided here; the rest goes to worker processes with a time
limit. An answer that is not there because generation was cut off, and one that no grader can
judge, are counted apart from wrong ones.
"""

import os
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
from wdl.grading.notation import plain
from wdl.grading.options import (
    is_prose,
    letter_of,
    normalised,
    option_at_end,
    parse_choices,
)
from wdl.grading.plain_numbers import equal_in_base, equal_numbers
from wdl.system.child import Child, ChildFailure

Kind = Literal["number", "expression", "letter", "text", "code"]
Status = Literal["correct", "wrong", "cut_off", "could_not_grade"]
STATUSES: tuple[Status, ...] = get_args(Status)
# Raised whenever the same answer may be graded differently than before.
RULES_VERSION = 4
START_LIMIT = 120.0  # seconds


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

    def report(self, tasks: Sequence[Task], grades: Sequence[Grade]) -> dict[str, Any]:
        """What the record says beside these grades of its own; most graders have nothing to say."""
        return {}

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

    worker_module = "wdl.grading.math_worker"

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
            if task.kind == "letter" and task.complete:
                at_end = option_at_end(task.completion, task.question, task.thinking)
                answer = at_end or answer
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
        """By its text, its letter, or a value that is that of exactly this choice."""
        reference = letter_of(task.reference) or task.reference
        choices = parse_choices(task.question)
        same = [name for name, text in choices.items() if normalised(text) == normalised(answer)]
        if len(same) == 1 and len(plain(answer)) > 1:  # "A is taller" is no letter
            return same == [reference]
        letter = letter_of(answer) or letter_of(value_in(answer))
        if letter:
            return letter == reference
        values = {name: text for name, text in choices.items() if not is_prose(text)}
        if not values:
            return False
        equal = self._verify(plain(value_in(answer)), [plain(value) for value in values.values()])
        return [name for name, fits in zip(values, equal, strict=True) if fits] == [reference]

    def _verify(self, answer: str, references: Sequence[str]) -> list[bool]:
        """Which references the answer equals, says math-verify in a worker.

        Raises:
            ChildFailure: The worker did not start, died, took too long or could not read a
                reference.
        """
        return self._ask({"answer": answer, "references": list(references)})["equal"]

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """What a worker responds.

        Raises:
            ChildFailure: It did not start, died, took too long or reports an error.
        """
        worker = self._worker()
        try:
            worker.send(message)
            response: dict[str, Any] = worker.receive(self.limit)
        except BaseException:
            worker.close()
            raise
        self._idle.put(worker)
        if "error" in response:
            raise ChildFailure(response["error"])
        return response

    def _worker(self) -> Child:
        """One that is idle, or a new one that has loaded all, which does not count as grading."""
        with suppress(Empty):
            return self._idle.get_nowait()
        worker = Child([sys.executable, "-m", self.worker_module])
        try:
            worker.receive(START_LIMIT)
        except ChildFailure:
            worker.close()
            raise
        return worker
