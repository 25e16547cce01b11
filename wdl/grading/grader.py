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
from wdl.grading.answers import find_answer, last_boxed, tagged_answer, value_in
from wdl.grading.notation import WRAPPERS, plain
from wdl.grading.plain_numbers import equal_in_base, equal_numbers
from wdl.system.child import Child, ChildFailure

Kind = Literal["number", "expression", "letter", "text", "code"]
Status = Literal["correct", "wrong", "cut_off", "could_not_grade"]
STATUSES: tuple[Status, ...] = get_args(Status)
# Raised whenever the same answer may be graded differently than before.
RULES_VERSION = 4
START_LIMIT = 120.0  # seconds
_OPTION = re.compile(r"(?<![\w$\\])([A-Z])\s*[).:]")
_OPTION_LINE = re.compile(r"^[ \t]*\(?([A-Z])[ \t]*\)", re.MULTILINE)
_WORD = re.compile(r"(?<!\\)\b[A-Za-z]{2,}\b")
_ANSWER_IS = re.compile(r"\b(?:answer|option|choice)\b[^.]{0,40}?(?:\bis\b|:)[\s*_:]*$")
PROSE = 5
"""With as many words an option is a sentence, which has no value that math-verify could read."""
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
                answer = _option_at_end(task) or answer
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
        reference = _letter(task.reference) or task.reference
        choices = parse_choices(task.question)
        same = [name for name, text in choices.items() if _words(text) == _words(answer)]
        if len(same) == 1 and len(plain(answer)) > 1:  # "A is taller" is no letter
            return same == [reference]
        letter = _letter(answer) or _letter(value_in(answer))
        if letter:
            return letter == reference
        values = {name: text for name, text in choices.items() if len(_WORD.findall(text)) < PROSE}
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


def parse_choices(question: str) -> dict[str, str]:
    """Letter and value of each option that a question lists, ``A) 21`` or ``(A) 21``.

    Options on lines of their own go before others: prose may say "A)" anywhere.
    """
    marks = _series(_OPTION_LINE.finditer(question))
    if len(marks) < 2:
        marks = _series(_OPTION.finditer(question))
    ends = [*(mark.start() for mark in marks[1:]), len(question)]
    return {
        mark[1]: question[mark.end() : end].strip(" ,;.\n(")
        for mark, end in zip(marks, ends, strict=False)
    }


def _series(found: Iterable[re.Match[str]]) -> list[re.Match[str]]:
    """The marks of the last list that begins with A."""
    marks: list[re.Match[str]] = []
    for mark in found:
        if mark[1] == "A":
            marks = [mark]
        elif marks and ord(mark[1]) == ord(marks[-1][1]) + 1:
            marks.append(mark)
    return marks


def _words(text: str) -> str:
    """A text without what changes how it looks: quotes, case, a full stop."""
    return plain(re.sub("[\"'“”‘’`]", "", WRAPPERS.sub(r"\1", text))).casefold()


def _option_at_end(task: Task) -> str | None:
    """The one option whose text is all of an answer, or ends it after "the answer is"."""
    final = task.completion.rpartition("</think>")[2]
    if final == task.completion and (task.thinking or "<think>" in final):
        return None
    if last_boxed(final) is not None:
        return None
    final = re.sub("</?answer>", "", final)
    said, found = _words(final), []
    for text in parse_choices(task.question).values():
        option = _words(text)
        before = said[: -len(option)] if option and said.endswith(option) else None
        is_whole = before is not None and len(_WORD.findall(option)) > 1
        if is_whole and (not before or _ANSWER_IS.search(before)):
            found.append(text)
    return found[0] if len(found) == 1 else None


def _letter(answer: str) -> str | None:
    """The one letter that an answer names."""
    match = _LETTER.fullmatch(plain(WRAPPERS.sub(r"\1", answer)))
    if match is None:
        return None
    rest = match["text"] if match["more"] is None else f",{match['more']}"
    return None if rest and _SECOND.match(rest) else match[1].upper()
