"""Instruction data as people have it, read row by row into conversations with an answer.

Rows come from JSON (a list of objects), JSON Lines, or folders of these, in one of three schemas:

    {"instruction": "...", "output": "..."}            optional "input"
    {"prompt": "...", "completion": "..."}
    {"messages": [{"role": "user", "content": "..."}, ..., {"role": "assistant", ...}]}

each with an optional integer "idx"; without it, rows are numbered in the order they are read.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from wdl.errors import MAX_FAULTS, UserError

SUFFIXES = (".json", ".jsonl")
logger = logging.getLogger(__name__)
ROLES = ("system", "user", "assistant", "tool")


class Record(TypedDict):
    """One sample before it is encoded."""

    idx: int
    messages: list[dict[str, str]]
    completion: str


class RowError(ValueError):
    """What is wrong with one row and how to mend it, without its place."""


class EmptyAnswerError(RowError):
    """The row is sound but its answer is empty, as a few are in most public data sets."""


def data_files(path: Path) -> list[Path]:
    """The data files at ``path``: itself, or those in the folder in order of name.

    Raises:
        UserError: There is none.
    """
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder; check data.path")
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: the folder holds no {' or '.join(SUFFIXES)} file")
    if files[0].suffix not in SUFFIXES:
        raise UserError(f"{path}: data files end in {' or '.join(SUFFIXES)}; convert or rename it")
    return files


def read_records(files: list[Path]) -> list[Record]:
    """All rows of ``files``, checked.

    A row whose answer is empty teaches nothing; it is left out, and a warning says which.

    Raises:
        UserError: One line ``file:line: what; remedy`` for each faulty row.
    """
    records: list[Record] = []
    faults: list[str] = []
    empty: list[str] = []
    seen: set[int] = set()
    position = -1
    for file in files:
        rows = 0
        for line, row in rows_of(file, faults):
            rows += 1
            position += 1
            try:
                record = parse_row(row, default_idx=position)
                if record["idx"] in seen:
                    raise RowError(f"idx {record['idx']} occurs twice; make it unique or drop it")
            except EmptyAnswerError as fault:
                empty.append(f"{file}:{line}: {fault}")
                continue
            except RowError as fault:
                faults.append(f"{file}:{line}: {fault}")
                continue
            seen.add(record["idx"])
            records.append(record)
        if not rows and not faults:
            faults.append(f"{file}: the file is empty; it must hold at least one row")
    if not records:
        faults += empty
    if faults:
        raise UserError(*faults[:MAX_FAULTS], total=len(faults))
    if empty:
        logger.warning("%d rows with an empty answer are left out:", len(empty))
        for line in UserError(*empty[:MAX_FAULTS], total=len(empty)).lines():
            logger.warning("  %s", line)
    return records


def parse_row(row: Any, default_idx: int) -> Record:
    """One row of any schema as a record.

    Raises:
        RowError: The row fits no schema, or a field is missing, empty or of the wrong type.
    """
    if not isinstance(row, dict):
        raise RowError(f"a row is an object, this is {_kind(row)}; write {{...}}")
    idx = row.get("idx", default_idx)
    if not isinstance(idx, int) or isinstance(idx, bool):
        raise RowError(f"idx is {_kind(idx)}; it must be an integer")
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
    return value


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
    messages = [{"role": _text(m, "role"), "content": _text(m, "content")} for m in value]
    for message in messages:
        if message["role"] not in ROLES:
            raise RowError(f"role {message['role']!r} is unknown; use one of {', '.join(ROLES)}")
    if messages[-1]["role"] != "assistant":
        raise RowError("the last message must be the assistant's; drop what follows it")
    return messages


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return "missing" if value is None else names.get(type(value), "a number")


def rows_of(file: Path, faults: list[str]) -> Iterator[tuple[int, Any]]:
    """Line number and parsed value of each row; what cannot be parsed goes to ``faults``."""
    try:
        if file.suffix == ".json":
            yield from _json_rows(file, faults)
        else:
            yield from _json_lines(file, faults)
    except UnicodeDecodeError:
        faults.append(f"{file}: this is no UTF-8 text; convert it or choose another file")


def _json_lines(file: Path, faults: list[str]) -> Iterator[tuple[int, Any]]:
    with file.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                faults.append(f"{file}:{number}: broken JSON ({error.msg}); mend or drop the line")
                continue
            yield number, row


def _json_rows(file: Path, faults: list[str]) -> Iterator[tuple[int, Any]]:
    """The elements of a JSON list, decoded one by one so that each has its line."""
    text = file.read_text(encoding="utf-8-sig")
    decoder = json.JSONDecoder()
    position, line = _skip(text, 0, 1)
    if not text.strip():
        return
    if text[position] != "[":
        faults.append(
            f"{file}:{line}: a .json file holds one list of rows; name it .jsonl if each "
            "line is a row"
        )
        return
    position, line = _skip(text, position + 1, line)
    while position < len(text) and text[position] != "]":
        try:
            row, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            faults.append(f"{file}:{error.lineno}: broken JSON ({error.msg}); mend the file")
            return
        yield line, row
        line += text.count("\n", position, end)
        position, line = _skip(text, end, line, also=",")
    if position >= len(text):
        faults.append(f"{file}:{line}: the list is not closed; the file is cut off")


def _skip(text: str, position: int, line: int, also: str = "") -> tuple[int, int]:
    """Position and line of the next character that is neither white space nor in ``also``."""
    while position < len(text) and (text[position].isspace() or text[position] in also):
        line += text[position] == "\n"
        position += 1
    return position, line
