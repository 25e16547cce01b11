"""The options of multiple choice: those that a question lists, and the one that an answer names."""

import re
from collections.abc import Iterable

from wdl.grading.answers import last_boxed
from wdl.grading.notation import WRAPPERS, plain

_OPTION = re.compile(r"(?<![\w$\\])([A-Z])\s*[).:]")
_OPTION_LINE = re.compile(r"^[ \t]*\(?([A-Z])[ \t]*\)", re.MULTILINE)
_WORD = re.compile(r"(?<!\\)\b[A-Za-z]{2,}\b")
_ANSWER_IS = re.compile(r"\b(?:answer|option|choice)\b[^.]{0,40}?(?:\bis\b|:)[\s*_:]*$")
_PROSE = 5  # words, from which on an option is a sentence
_LETTER = re.compile(
    r"(?:(?:the )?(?:(?:final |correct )?answer|option|choice)(?: is)?[:\s]+)?"
    r"[(\[]?\s*([A-Z])\s*(?:[)\].:](?P<text>.*)|(?-i:[,;–—-](?P<more>.*)"
    r"|\s(?:because|since|as|for|which|with|is|due)\b.*))?",
    re.DOTALL | re.IGNORECASE,
)
# A second letter: "A) and B)", "A, B".
_SECOND = re.compile(r"[\s)\]]*(?:(?:and|or|,|&|/)\s*)+[(\[]?[A-Z](?![\w'])")


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


def normalised(text: str) -> str:
    """A text without what changes how it looks: quotes, case, a full stop."""
    return plain(re.sub("[\"'“”‘’`]", "", WRAPPERS.sub(r"\1", text))).casefold()


def is_prose(option: str) -> bool:
    """Whether an option is a sentence, which has no value that math-verify could read."""
    return len(_WORD.findall(option)) >= _PROSE


def option_at_end(completion: str, question: str, thinking: bool) -> str | None:
    """The one option whose text is all of an answer, or ends it after "the answer is"."""
    final = completion.rpartition("</think>")[2]
    if final == completion and (thinking or "<think>" in final):
        return None
    if last_boxed(final) is not None:
        return None
    final = re.sub("</?answer>", "", final)
    said, found = normalised(final), []
    for text in parse_choices(question).values():
        option = normalised(text)
        before = said[: -len(option)] if option and said.endswith(option) else None
        is_whole = before is not None and len(_WORD.findall(option)) > 1
        if is_whole and (not before or _ANSWER_IS.search(before)):
            found.append(text)
    return found[0] if len(found) == 1 else None


def letter_of(answer: str) -> str | None:
    """The one letter that an answer names."""
    match = _LETTER.fullmatch(plain(WRAPPERS.sub(r"\1", answer)))
    if match is None:
        return None
    rest = match["text"] if match["more"] is None else f",{match['more']}"
    return None if rest and _SECOND.match(rest) else match[1].upper()
