"""Multiple choice: the options of a row, with letters, and the letter of the right one.

    "options": ["A) 21", "B) 34"]        AQuA
    "choices": ["21", "34"]              MMLU; also a text, "A) 21 B) 34"
    "options": {"A": "21", "B": "34"}
    "choices": {"text": ["21", "34"], "label": ["1", "2"]}      ARC
    "answers": ["21", "34"], "label": 1                         ReClor

The answer is a letter, a label, an index counted from 0, or the text of an option. Without a label,
"answers" are no options: in other sets they are ways to write the right answer.
"""

import re
from string import ascii_uppercase
from typing import Any

from wdl.data.rows import RowError
from wdl.grading.options import parse_choices

KEYS = ("options", "choices")
ANSWERS = ("answerKey", "correct", "answer", "Answer", "ans", "label")
_LETTERED = re.compile(r"\(?([A-Z])\s*[).:]")
_LETTERED_LINE = re.compile(r"\s*\n\s*(?=\(?[A-Z]\s*\))")


def has_options(row: dict[str, Any]) -> bool:
    """Whether a row is multiple choice."""
    return any(row.get(key) for key in KEYS) or _is_reclor(row)


def choices(row: dict[str, Any], repeats: bool = False) -> tuple[str, str] | None:
    """The options as lines, each with its letter, and the letter of the right one.

    Args:
        row: With or without options.
        repeats: Whether an option may occur twice.

    Returns:
        None if the row has no options.

    Raises:
        RowError: They cannot be told apart, or the answer is not exactly one of them.
    """
    given = [key for key in KEYS if row.get(key) is not None]
    if not given and _is_reclor(row):
        row, given = _labelled(row), ["answers"]
    if not given:
        return None
    if len(given) > 1:
        raise RowError(f"the row has both {' and '.join(given)}; keep one")
    labels, texts = _read(row[given[0]], given[0])
    if len(texts) < 2 or len(texts) > len(ascii_uppercase):
        raise RowError(f"{given[0]!r} has {len(texts)} options; give 2 to {len(ascii_uppercase)}")
    if not repeats and len(set(texts)) < len(texts):
        raise RowError(f"{given[0]!r} gives an option twice; drop one")
    letters = ascii_uppercase[: len(texts)]
    marks = [mark[1] if (mark := _LETTERED.match(text)) else None for text in texts]
    lettered = marks == list(letters)
    lines = texts if lettered else [f"{x}) {text}" for x, text in zip(letters, texts, strict=True)]
    plain = [_LETTERED.sub("", text, 1).strip() if lettered else text for text in texts]
    return "\n".join(lines), letters[_right(row, labels or list(letters), plain)]


def _is_reclor(row: dict[str, Any]) -> bool:
    is_listed = isinstance(row.get("answers"), list)
    return is_listed and "answer" not in row and bool({"label", "id_string"} & row.keys())


def _labelled(row: dict[str, Any]) -> dict[str, Any]:
    """The row of ReClor with its label, which copies of the set write as text, as a number."""
    label = row.get("label", "")
    if str(label).strip() in ("", "-1"):
        raise RowError(
            "the row has no label: the answers of ReClor's test split are not public; use the "
            "validation split"
        )
    is_index = isinstance(label, str) and label.strip().isdecimal()
    return {**row, "label": int(label) if is_index else label}


def _read(value: Any, key: str) -> tuple[list[str], list[str]]:
    """Labels, if there are any, and texts."""
    if isinstance(value, str):
        found = parse_choices(value)
        return [], [f"{letter}) {text}" for letter, text in found.items()]
    labels: Any = []
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        labels, value = value.get("label") or [], value["text"]
    elif isinstance(value, dict):
        labels, value = list(value), list(value.values())
    if not isinstance(value, list) or (labels and len(labels) != len(value)):
        raise RowError(f"{key!r} must be a list, an object or a text of lettered options")
    if any(not isinstance(one, str | int | float) or isinstance(one, bool) for one in value):
        raise RowError(f"{key!r} holds an option that is neither text nor number; mend it")
    # A line in an option that looks like the next option would be read as that.
    texts = [_LETTERED_LINE.sub(" ", str(one).strip()) for one in value]
    if not all(texts):
        raise RowError(f"{key!r} holds an empty option; fill it in or drop the row")
    return [str(label).strip() for label in labels], texts


def _right(row: dict[str, Any], labels: list[str], texts: list[str]) -> int:
    """Position of the right option."""
    key = next((key for key in ANSWERS if row.get(key) is not None), None)
    if key is None:
        raise RowError(f"the row has no answer; give one of {', '.join(ANSWERS)}")
    answer = row[key]
    if isinstance(answer, list):
        if len(answer) != 1:
            raise RowError(f"{key!r} names {len(answer)} right options; one is compared")
        (answer,) = answer
    if isinstance(answer, int) and not isinstance(answer, bool) and str(answer) not in labels:
        if not 0 <= answer < len(texts):
            raise RowError(f"{key!r} is {answer}; options are counted from 0 to {len(texts) - 1}")
        return answer
    said = str(answer).strip()
    for among in (labels, texts):
        fitting = [n for n, one in enumerate(among) if one.casefold() == said.casefold()]
        if len(fitting) == 1:
            return fitting[0]
    raise RowError(f"{key!r} is {said!r}, which is none of the options; give its letter")
