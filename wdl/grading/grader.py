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
from dataclasses import dataclass
from importlib.metadata import version
from queue import Empty, SimpleQueue
from typing import Any, Literal, Self

from wdl.grading.answers import find_answer
from wdl.grading.plain_numbers import equal_numbers
from wdl.system.child import Child, ChildFailure

Kind = Literal["number", "expression", "letter"]
Status = Literal["correct", "wrong", "cut_off", "could_not_grade"]
STATUSES: tuple[Status, ...] = ("correct", "wrong", "cut_off", "could_not_grade")
# Raised whenever the same answer may be graded differently than before.
RULES_VERSION = 1
LETTERS = "ABCDE"
WORKER = "wdl.grading.math_worker"
START_LIMIT = 120.0  # seconds
_OPTION = re.compile(r"\(?\b([A-E])\s*[).:]\s*(.+?)(?=[\s,;(]+[A-E]\s*[).:]|\s*$)", re.DOTALL)
_LETTER = re.compile(
    r"(?:(?:the )?(?:(?:final |correct )?answer|option|choice)(?: is)?[:\s]+)?"
    r"\(?\s*([A-E])\s*(?:[).:].*)?",
    re.DOTALL | re.IGNORECASE,
)
_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf)\s*\{([^{}]*)\}")


@dataclass(frozen=True)
class Task:
    """One completion to grade against the reference of its problem."""

    kind: Kind
    question: str
    reference: str
    completion: str
    complete: bool
    tolerance: float = 0.0


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


class BaseGrader(ABC):
    """Whatever can say whether answers are right. Making one is cheap.

    One of your own is a class derived from this, in a module that Python finds, such as a file in
    the current folder; a benchmark's YAML names it by ``grader.class_path``.
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
        return {
            "name": "math-verify",
            "version": version("math-verify"),
            "rules": RULES_VERSION,
        }

    def grade(self, tasks: Iterable[Task]) -> list[Grade]:
        """A verdict on each task, in order."""
        return list(self._threads.map(self._grade, tasks))

    def close(self) -> None:
        """End the workers."""
        self._threads.shutdown()
        while (worker := self._idle_worker()) is not None:
            worker.close()

    def _grade(self, task: Task) -> Grade:
        answer = find_answer(task.completion, task.complete)
        if answer is None:
            missing = Grade("wrong", None, "no answer")
            return missing if task.complete else Grade("cut_off", None, "no answer yet")
        if not answer:
            return Grade("wrong", answer, "empty answer")
        try:
            right = self._compare(task, answer)
        except ChildFailure as failure:
            return Grade("could_not_grade", answer, str(failure))
        return Grade("correct" if right else "wrong", answer)

    def _compare(self, task: Task, answer: str) -> bool:
        if answer == task.reference:
            return True
        if task.kind == "letter":
            return self._same_choice(task, answer)
        equal = equal_numbers(answer, task.reference, task.tolerance)
        if equal or (equal is False and task.kind == "number"):
            return equal
        return self._verify(answer, [task.reference])[0]

    def _same_choice(self, task: Task, answer: str) -> bool:
        """By its letter, or by a value that is that of exactly this choice."""
        letter = _LETTER.fullmatch(_TEXT.sub(r"\1", answer).strip(" $.*"))
        if letter:
            return letter[1].upper() == task.reference.upper()
        choices = parse_choices(task.question)
        if not choices:
            return False
        equal = self._verify(answer, list(choices.values()))
        fitting = [name for name, fits in zip(choices, equal, strict=True) if fits]
        return fitting == [task.reference.upper()]

    def _verify(self, answer: str, references: Sequence[str]) -> list[bool]:
        """Which references the answer equals, says math-verify in a worker.

        Raises:
            ChildFailure: The worker died, took too long or could not read a reference.
        """
        worker = self._idle_worker() or _start_worker()
        try:
            worker.send({"answer": answer, "references": list(references)})
            response = worker.receive(self.limit)
        except ChildFailure:
            worker.close()
            raise
        self._idle.put(worker)
        if "error" in response:
            raise ChildFailure(response["error"])
        return response["equal"]

    def _idle_worker(self) -> Child | None:
        try:
            return self._idle.get_nowait()
        except Empty:
            return None


def parse_choices(question: str) -> dict[str, str]:
    """Letter and value of each option that a question lists, ``A) 21`` or ``(A) 21``."""
    found = {match[1]: match[2].strip(" ,;.") for match in _OPTION.finditer(question)}
    return found if sorted(found) == list(LETTERS[: len(found)]) else {}


def _start_worker() -> Child:
    """A worker that has loaded what it needs, which does not count as grading.

    Raises:
        ChildFailure: It did not start.
    """
    worker = Child([sys.executable, "-m", WORKER])
    try:
        worker.receive(START_LIMIT)
    except ChildFailure:
        worker.close()
        raise
    return worker
