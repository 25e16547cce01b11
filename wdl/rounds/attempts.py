"""Attempts at questions, as `wdl sample` writes them and `wdl grade` judges them.

    {"id": "5f0e...", "attempt": 0, "messages": [{"role": "user", "content": "Compute 58*7-97."}],
     "answer": "309", "completion": "<think>50*7=350 ...", "finish_reason": "stop",
     "new_tokens": 61}

and, once they are judged,

     "verdict": "right", "stated": "309", "detail": ""

``thinking`` is there, and true, where the prompt has opened the thought that the completion begins
in.
"""

import filecmp
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any, Literal, get_args

from wdl.data.images import PICTURES, check_marks, image_file
from wdl.data.rows import Faults, RowError, rows_of
from wdl.data.schemas import encodable
from wdl.errors import UserError
from wdl.metrics.per_problem import pass_at_k
from wdl.system.digests import files_digest

Verdict = Literal["right", "wrong", "ungraded"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
Key = tuple[str, int]


@dataclass(frozen=True)
class Attempt:
    """One answer of a model to a question of the pool.

    Args:
        id: The question's.
        attempt: Which of the answers to it in this round.
        messages: What was asked; the question is the last of them.
        answer: The reference.
        completion: What the model wrote, verbatim, without the token that ended it.
        finish_reason: ``stop`` if the model ended it, ``length`` if it was cut off.
        new_tokens: How many tokens were generated.
        thinking: Whether the prompt has opened a thought.
        verdict: None before it is judged.
        stated: What the completion states as its answer, if anything.
        detail: Why it is ungraded, or what is missing.
        images: Files of the question's pictures; in a file relative to it.
        item: The question's.
    """

    id: str
    attempt: int
    messages: list[dict[str, str]]
    answer: str
    completion: str
    finish_reason: Literal["stop", "length"]
    new_tokens: int
    thinking: bool = False
    verdict: Verdict | None = None
    stated: str | None = None
    detail: str = ""
    images: tuple[str, ...] = ()
    item: str | None = None

    @property
    def key(self) -> Key:
        """What tells an attempt from the others of its round."""
        return self.id, self.attempt

    @property
    def question(self) -> str:
        """The text of the question."""
        return self.messages[-1]["content"]

    @property
    def is_whole(self) -> bool:
        """Whether a model can be trained on it, which must learn to end its answers."""
        closed = not self.thinking or "</think>" in self.completion
        return self.finish_reason == "stop" and closed and bool(self.completion.strip())

    def row(self) -> dict[str, Any]:
        """As it is written."""
        optional = ("thinking", "images", "item")
        left_out = {name for name in optional if not getattr(self, name)}
        if self.verdict is None:
            left_out |= {"verdict", "stated", "detail"}
        return {name: value for name, value in asdict(self).items() if name not in left_out}


_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "answer", "completion", "finish_reason", "detail"), (str,)),
    **dict.fromkeys(("attempt", "new_tokens"), (int,)),
    **dict.fromkeys(("messages", "images"), (list,)),
    "thinking": (bool,),
    **dict.fromkeys(("verdict", "stated", "item"), (str, type(None))),
}


def read_samples(file: Path) -> list[Attempt]:
    """The attempts that `wdl sample` wrote.

    Raises:
        UserError: One line ``file:line: what; remedy`` for each faulty row, or the file is not
            there or empty.
    """
    return _read([file], graded=False)


def read_graded(files: Sequence[Path]) -> tuple[list[Attempt], list[str]]:
    """The attempts in all of the files that `wdl grade` wrote, and the digest of each file.

    Raises:
        UserError: As above, or a file is named twice, or none is.
    """
    if not files or len(set(files)) < len(files):
        twice = f"{max(files, key=files.count)} is named twice; " if files else ""
        raise UserError(f"--graded: {twice}name each file once, at least one")
    attempts = _read(files, graded=True)
    for one, other in combinations(files, 2):
        if filecmp.cmp(one, other, shallow=False):
            raise UserError(f"--graded: {other} holds the same as {one}; count each attempt once")
    return attempts, [files_digest([file]) for file in files]


def _read(files: Sequence[Path], graded: bool) -> list[Attempt]:
    faults = Faults()
    for file in files:
        if not file.is_file():
            one = " (one file is asked for)" if "," in str(file) else ""
            faults.append(f"{file}: there is no such file; check the path{one}")
        elif not file.name.endswith((".jsonl", ".jsonl.gz", ".jsonl.zst")):
            faults.append(f"{file}: attempts come as .jsonl; check the path")
    if faults:
        raise faults.error()
    answers: dict[str, str] = {}
    found = [one for file in files for one in _read_file(file, graded, answers, faults)]
    if faults:
        raise faults.error()
    return found


def _read_file(file: Path, graded: bool, answers: dict[str, str], faults: Faults) -> list[Attempt]:
    """The attempts in a file; ``answers`` are the references to each question so far."""
    found: dict[Key, Attempt] = {}
    for line, row in rows_of(file, faults):
        try:
            attempt = _attempt(row, file.parent)
            if graded and attempt.verdict not in VERDICTS:
                raise RowError("it has no verdict; grade the file with wdl grade first")
            if attempt.key in found:
                raise RowError(f"attempt {attempt.attempt} at {attempt.id} is there already")
            before = answers.setdefault(attempt.id, attempt.answer)
            if attempt.answer != before:
                raise RowError(
                    f"the answer to {attempt.id} is {attempt.answer!r}, and was {before!r} before; "
                    "grade all attempts at it by the right one"
                )
            found[attempt.key] = attempt
        except RowError as fault:
            faults.append(f"{file}:{line}: {fault}")
    if not found and not faults:
        faults.append(f"{file}: the file is empty; it must hold at least one attempt")
    return list(found.values())


def _attempt(row: Any, folder: Path) -> Attempt:
    if not isinstance(row, dict):
        raise RowError("an attempt is an object, as wdl sample writes it")
    known = {field.name: row[field.name] for field in fields(Attempt) if field.name in row}
    missing = [field.name for field in fields(Attempt)[:7] if field.name not in known]
    if missing:
        raise RowError(f"it has no {missing[0]}; an attempt is a row that wdl sample writes")
    if strange := sorted(row.keys() - known.keys()):
        raise RowError(f"{strange[0]!r} is no field of an attempt; correct or drop it")
    for name, value in known.items():
        unknown = name == "finish_reason" and value not in ("stop", "length")
        if unknown or type(value) not in _TYPES[name] or (type(value) is int and value < 0):
            raise RowError(f"{name} is {value!r}, which wdl sample never writes; sample again")
        if isinstance(value, str):
            encodable(value, name)
    messages = known["messages"]
    if not messages or not all(_is_message(message) for message in messages):
        raise RowError("messages must be objects with the texts role and content and no more")
    for message in messages:
        encodable(message["content"], "messages")
    images = known.pop("images", [])
    check_marks(messages, [], images)
    files = tuple(image_file(source, folder, PICTURES) for source in images)
    return Attempt(**known, images=files)


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, dict)
        and message.keys() == {"role", "content"}
        and all(isinstance(text, str) for text in message.values())
    )


def by_question(attempts: Iterable[Attempt]) -> dict[str, list[Attempt]]:
    """The attempts at each question, in order of first appearance."""
    groups: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault(attempt.id, []).append(attempt)
    return groups


def statistics(attempts: Iterable[Attempt]) -> dict[str, float]:
    """What graded attempts amount to.

    Returns:
        The numbers of ``questions`` and ``attempts``, of each verdict, and of those ``cut_off``;
        the share of questions whose graded attempts were ``all_right`` or ``all_wrong``, and of
        those that have none, ``all_ungraded``; and for each power of two and the most attempts at
        a question, the unbiased ``pass@k``, over the questions with at least k graded attempts.
    """
    groups = by_question(attempts)
    every = [attempt for group in groups.values() for attempt in group]
    counts = Counter(attempt.verdict for attempt in every)
    graded = [
        (sum(a.verdict == "right" for a in group), sum(a.verdict != "ungraded" for a in group))
        for group in groups.values()
    ]
    found: dict[str, float] = {
        "questions": len(groups),
        "attempts": len(every),
        **{verdict: counts[verdict] for verdict in VERDICTS},
        "cut_off": sum(attempt.finish_reason == "length" for attempt in every),
        "all_right": fmean(0 < right == number for right, number in graded),
        "all_wrong": fmean(0 == right < number for right, number in graded),
        "all_ungraded": fmean(number == 0 for _, number in graded),
    }
    most = max(len(group) for group in groups.values())
    for k in sorted({*(1 << shift for shift in range(most.bit_length())), most}):
        if values := [pass_at_k(right, number, k) for right, number in graded if number >= k]:
            found[f"pass@{k}"] = fmean(values)
    return found


def shares_of(found: Mapping[str, float]) -> dict[str, float]:
    """The shares among :func:`statistics`, with that of ungraded attempts."""
    shares = {name: n for name, n in found.items() if name.startswith(("all_", "pass@"))}
    return {**shares, "ungraded": found["ungraded"] / found["attempts"]}


def told(found: Mapping[str, float]) -> str:
    """:func:`statistics` as a line."""
    counts = ", ".join(f"{found[verdict]} {verdict}" for verdict in VERDICTS)
    shares = ", ".join(
        f"{name.replace('_', ' ')} {share:.1%}"
        for name, share in found.items()
        if name in ("all_right", "all_wrong") or name.startswith("pass@")
    )
    return f"{found['attempts']} attempts at {found['questions']} questions: {counts}; {shares}"
