"""Instruction data as people have it, read row by row into conversations with an answer.

A row (see :mod:`wdl.data.rows` for where they come from) has one of three schemas:

    {"instruction": "...", "output": "..."}            optional "input"
    {"prompt": "...", "completion": "..."}
    {"messages": [{"role": "user", "content": "..."}, ..., {"role": "assistant", ...}]}

each with an optional integer "idx"; without it, rows are numbered in the order they are read.
Other keys, such as the "info" of AM-DeepSeek-R1-Distilled's messages, are ignored.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypedDict

from tqdm import tqdm

from wdl.data.rows import Faults, Part, RowError, rows_of
from wdl.errors import UserError

ROLES = ("system", "user", "assistant", "tool")
MAX_IDX = 2**63 - 1

OnBadRow = Literal["error", "skip"]


class Record(TypedDict):
    """One sample before it is encoded."""

    idx: int
    messages: list[dict[str, str]]
    completion: str


class EmptyAnswerError(RowError):
    """The row is sound but its answer is empty, as a few are in most public data sets."""


class Ids:
    """The ids so far; those that count up from the first take no memory."""

    def __init__(self) -> None:
        self._run = range(0)
        self._others: set[int] = set()

    def add(self, idx: int) -> None:
        """Take in one more.

        Raises:
            RowError: It is not new.
        """
        if idx in self._run or idx in self._others:
            raise RowError(f"idx {idx} occurs twice; make it unique or drop it")
        if not self._run:
            self._run = range(idx, idx + 1)
        elif idx == self._run.stop:
            self._run = range(self._run.start, idx + 1)
        else:
            self._others.add(idx)


class RecordReader:
    """Checks rows as they stream by; goes through all of them before it raises.

    A row whose answer is empty teaches nothing; it is always left out.

    Args:
        parts: Where the rows come from.
        on_bad_row: ``skip`` leaves out faulty rows too. A file that cannot be read as a whole is
            an error anyway.

    Attributes:
        left_out: One line ``file:line: what; remedy`` for each row that is left out.
    """

    def __init__(self, parts: Sequence[Part], on_bad_row: OnBadRow = "error") -> None:
        self.parts = parts
        self.left_out = Faults()
        self._faults = self.left_out if on_bad_row == "skip" else Faults()
        self._ids = Ids()
        self._position = -1

    def __iter__(self) -> Iterator[Record]:
        """The records.

        Raises:
            UserError: One line for each faulty row, at the end.
        """
        found = False
        for part in self.parts:
            try:
                for record in self._records(part):
                    found = True
                    yield record
            except UserError as error:
                raise UserError(*self._fatal(), *error.faults) from error
        if self._fatal():
            raise self._faults.error()
        if not found:
            raise self.left_out.error()

    def _fatal(self) -> Sequence[str]:
        return () if self._faults is self.left_out else self._faults

    def _records(self, part: Part) -> Iterator[Record]:
        any_row = False
        for line, row in tqdm(rows_of(part, self._faults), f"{part}", unit=" rows", delay=5):
            any_row = True
            self._position += 1
            try:
                record = parse_row(row, default_idx=self._position)
                self._ids.add(record["idx"])
            except EmptyAnswerError as fault:
                self.left_out.append(f"{part}:{line}: {fault}")
            except RowError as fault:
                self._faults.append(f"{part}:{line}: {fault}")
            else:
                yield record
        if not any_row and not self._faults:
            raise UserError(f"{part}: the file is empty; it must hold at least one row")


def parse_row(row: Any, default_idx: int) -> Record:
    """One row of any schema as a record.

    Raises:
        RowError: The row fits no schema, or a field is missing, empty or of the wrong type.
    """
    if not isinstance(row, dict):
        raise RowError(f"a row is an object, this is {_kind(row)}; write {{...}}")
    idx = row.get("idx", default_idx)
    if not isinstance(idx, int) or isinstance(idx, bool) or abs(idx) > MAX_IDX:
        raise RowError(f"idx is {_kind(idx)}; it must be an integer of 64 bits")
    if "messages" in row:
        *messages, answer = _messages(row["messages"])
        return {"idx": idx, "messages": messages, "completion": answer["content"]}
    for question, answer_key in (("instruction", "output"), ("prompt", "completion")):
        if question in row:
            text = _text(row, question)
            if row.get("input"):
                text = f"{text}\n\n{_text(row, 'input')}"
            message = {"role": "user", "content": text}
            return {"idx": idx, "messages": [message], "completion": _answer(row, answer_key)}
    raise RowError(
        "the row has none of instruction, prompt and messages; "
        f"it has {', '.join(map(repr, row)) or 'no key'}"
    )


def _text(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise RowError(f"{key!r} is {_kind(value)}; give it a text")
    if not value.strip():
        raise RowError(f"{key!r} is empty; fill it in or drop the row")
    if not value.isascii():
        _check_encodable(value, key)
    return value


def _check_encodable(value: str, key: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise RowError(f"{key!r} holds half a surrogate pair; mend or drop the row") from None


def _answer(row: dict[str, Any], key: str) -> str:
    answer = row.get(key)
    if isinstance(answer, str) and not answer.strip():
        raise EmptyAnswerError(f"{key!r} is empty; fill it in or drop the row")
    return _text(row, key)


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or len(value) < 2:
        raise RowError("messages must be a list of at least a question and an answer")
    if not all(isinstance(message, dict) for message in value):
        raise RowError("each message must be an object with role and content")
    *before, last = value
    messages = [{"role": _text(m, "role"), "content": _text(m, "content")} for m in before]
    messages.append({"role": _text(last, "role"), "content": _answer(last, "content")})
    for message in messages:
        if message["role"] not in ROLES:
            raise RowError(f"role {message['role']!r} is unknown; use one of {', '.join(ROLES)}")
    if messages[-1]["role"] != "assistant":
        raise RowError("the last message must be the assistant's; drop what follows it")
    return messages


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return "missing" if value is None else names.get(type(value), "a number")
