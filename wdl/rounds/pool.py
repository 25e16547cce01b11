"""The pool: the questions that a round asks, each with its answer and what became of it so far.

    {"id": "5f0e...", "question": "Compute 58*7-97.", "answer": "309", "origin": "enhanced",
     "parent": "81c2...", "generation": 1, "attempts": 8, "solved": 3, "streak": 0}

Any file of problems that :mod:`wdl.questions.problems` reads is a pool of fresh questions; ids of
its own are not kept.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from wdl.config.paths import DATA_SUFFIXES
from wdl.data.rows import Faults, RowError, rows_of
from wdl.data.schemas import SYSTEMS, encodable
from wdl.errors import UserError
from wdl.grading.grader import Kind
from wdl.grading.options import parse_choices
from wdl.grading.plain_numbers import parse_number
from wdl.questions.choices import has_options
from wdl.questions.problems import parse_problem
from wdl.rounds.attempts import Attempt

Origin = Literal["seed", "enhanced", "replay"]


@dataclass(frozen=True)
class Question:
    """One question of a pool.

    Args:
        id: Hash of its text, see :func:`question_id`.
        question: Its text.
        answer: The reference.
        origin: How it came into this pool: ``seed`` from the user, ``enhanced`` made from another
            question, ``replay`` asked before.
        parent: Id of the question that it was made from.
        generation: How many questions lie between it and one of the user's, itself counted.
        attempts: Graded attempts in all rounds so far.
        solved: How many of them were right.
        streak: Rounds in a row whose attempts were all right; below 0, all wrong.
        images: Files of its pictures, each of which is ``<image>`` in the text.
        item: What questions have in common that ask the same with the pictures in another order.
    """

    id: str
    question: str
    answer: str
    origin: Origin = "seed"
    parent: str | None = None
    generation: int = 0
    attempts: int = 0
    solved: int = 0
    streak: int = 0
    images: tuple[str, ...] = ()
    item: str | None = None

    def row(self) -> dict[str, Any]:
        """As it is written."""
        left_out = {name for name in ("images", "item") if not getattr(self, name)}
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def kind_of(question: str, answer: str) -> Kind:
    """How answers compare with the reference, as far as question and reference show it."""
    if answer in parse_choices(question):
        return "letter"
    if _PROSE.fullmatch(answer):
        return "text"
    return "expression" if parse_number(answer) is None else "number"


_PROSE = re.compile(r"(?=.*[^\W\d_]{2,}.*\s.*[^\W\d_]{2,})[\w\s'’.,;:!?-]+")
"""At least two words, and no sign of a formula."""
_COUNTS = ("generation", "attempts", "solved", "streak")


def question_id(text: str, images: Sequence[str] = ()) -> str:
    """16 hexadecimal digits that do not depend on white space or on how accents are coded.

    Of pictures it is the content that counts.
    """
    normal = " ".join(unicodedata.normalize("NFC", text).split())
    seen = "".join(hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in images)
    return hashlib.sha256(f"{normal}{seen}".encode()).hexdigest()[:16]


def read_pool(file: Path, may_be_empty: bool = False, asked: bool = True) -> list[Question]:
    """The questions of a file, each once.

    Args:
        file: Where they are.
        may_be_empty: Whether there may be none.
        asked: Whether they are for models to answer. Otherwise only their texts count.

    Raises:
        UserError: One line ``file:line: what; remedy`` for each faulty row, or there is none.
    """
    if not file.is_file():
        raise UserError(f"{file}: there is no such file; check the path")
    if not file.name.endswith(DATA_SUFFIXES):
        raise UserError(f"{file}: questions come as {' or '.join(DATA_SUFFIXES)}; convert it")
    faults = Faults()
    found: dict[str, Question] = {}
    for line, row in rows_of(file, faults):
        try:
            question = question_of(row, file.parent) if asked else _text(row, file.parent)
            known = found.setdefault(question.id, question)
            if known.answer != question.answer:
                raise RowError(
                    f"the answer is {question.answer!r}, and was {known.answer!r} to the same "
                    "question before; keep the right one"
                )
        except RowError as fault:
            faults.append(f"{file}:{line}: {fault}")
    if faults:
        raise faults.error()
    if not found and not may_be_empty:
        raise UserError(f"{file}: the file is empty; it must hold at least one question")
    return list(found.values())


def refuse_pictures(questions: Iterable[Question], place: str) -> None:
    """Refuse questions with pictures where only their texts would tell them apart.

    Raises:
        UserError: There is one.
    """
    if seen := next((one for one in questions if one.images), None):
        raise UserError(
            f"{place}: {seen.id} has pictures, and questions are renewed by their texts alone; "
            "ask the same pool in each round"
        )


def refuse_strangers(
    questions: Iterable[Question], attempts: Sequence[Attempt], place: str, pool: str
) -> None:
    """Refuse attempts at another pool.

    Raises:
        UserError: Some are at questions that are not in it, or were graded by another answer.
    """
    answers = {question.id: question.answer for question in questions}
    if strangers := [one.id for one in attempts if one.id not in answers]:
        raise UserError(
            f"{place}: it holds {len(strangers)} attempts at questions that are not in {pool}, "
            f"such as {strangers[0]}; give the pool that was sampled"
        )
    for one in attempts:
        if one.answer != answers[one.id]:
            raise UserError(
                f"{place}: attempts at {one.id} are graded by {one.answer!r}, but its answer in "
                f"{pool} is {answers[one.id]!r}; give the pool that was sampled"
            )


def _text(row: Any, folder: Path) -> Question:
    """A row of any file of problems, which needs no answer unless it has options."""
    if isinstance(row, dict) and not has_options(row):
        row = {**row, "answer": "none is needed"}
    problem = parse_problem(row, "", folder)
    text = encodable(problem.question, "the question")
    return Question(question_id(text, problem.images), text, problem.reference)


def question_of(row: Any, folder: Path) -> Question:
    """A row of a pool, or of any file of problems."""
    problem = parse_problem(row, "", folder)
    for key in filter(row.get, (*SYSTEMS, "history")):
        raise RowError(f"{key!r} is not asked; give --system_prompt for all questions, or drop it")
    for message in row["prompt"] if isinstance(row.get("prompt"), list) else ():
        given = message if isinstance(message, dict) else {}
        keys = {key for key, value in given.items() if value is not None}
        if given.get("role") != "user" or keys != {"role", "content"}:
            raise RowError(f"prompt holds {message}; a question is what the user says, and no more")
    text, answer = encodable(problem.question, "the question"), problem.reference
    identity = question_id(text, problem.images)
    seen: dict[str, Any] = {"images": problem.images, "item": problem.item}
    if "origin" not in row:
        parent = row.get("parent")
        if parent is not None and not isinstance(parent, str):
            raise RowError(f"parent is {parent!r}; give the id of a question")
        return Question(identity, text, answer, parent=parent, **seen)
    if row["origin"] not in get_args(Origin):
        known = ", ".join(get_args(Origin))
        raise RowError(f"origin is {row['origin']!r}; choose from {known}, or drop it")
    if row.get("id", identity) != identity:
        raise RowError(f"id is {row['id']!r}, but that of its text is {identity!r}; drop it")
    state = {one.name: row.get(one.name, one.default) for one in fields(Question)[3:-2]}
    for name in _COUNTS:
        lowest = None if name == "streak" else 0
        if type(state[name]) is not int or (lowest is not None and state[name] < lowest):
            raise RowError(
                f"{name} is {state[name]!r}; it is a whole number{' from 0 up' * (lowest == 0)}"
            )
    if state["solved"] > state["attempts"]:
        raise RowError(f"{state['solved']} of {state['attempts']} attempts are solved; mend it")
    return Question(identity, text, answer, **state, **seen)
