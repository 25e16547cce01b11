"""Judges one completion after the other as the paper's published code does.

    python -m wdl.grading.upstream_worker

is a child process for the reasons that :mod:`wdl.grading.math_worker` names. It writes {} when it
is ready; then it reads {"completion": ..., "reference": ..., "question": ...} and writes
{"right": true, false or null, "answer": ...}, with null for a reference that cannot be read, or
{"error": ...}.
"""

import json
import logging
import re
import resource
import sys
from typing import Any

from wdl.grading.math_worker import MAX_MEMORY
from wdl.system.processes import die_with_parent

_LETTERS = "ABCDE"
# In this order: a letter in a box goes before a letter that is called the answer.
_CHOSEN = (
    re.compile(r"\\boxed\{\s*([a-e])\s*\}", re.IGNORECASE),
    re.compile(r"answer\s*(?:is|:)?\s*\(?([a-e])\b", re.IGNORECASE),
)
_OPTION = re.compile(r"\(([A-E])\)")
_BOX = re.compile(r"\\boxed\{(?!\{)((?:[^{}]|\{[^{}]*\})+)\}")


def judge(completion: str, reference: str, question: str) -> tuple[bool | None, str | None]:
    """Whether a completion is right, and what was taken for its answer.

    Returns:
        None instead of a verdict if the reference cannot be read, which counts as wrong.
    """
    letter = reference.strip().strip("$").upper()
    if len(letter) == 1 and letter in _LETTERS:
        if chosen := _chosen(completion):
            return chosen == letter, chosen
        value, fitting = _fitting_option(completion, question)
        if fitting:
            return fitting == letter, value
    return _verify(completion, reference)


def _chosen(completion: str) -> str | None:
    """The last letter that is boxed anywhere, or else called the answer anywhere."""
    for pattern in _CHOSEN:
        if letters := pattern.findall(completion):
            return str(letters[-1]).upper()
    return None


def _fitting_option(completion: str, question: str) -> tuple[str | None, str | None]:
    """The value in the last box, and the first option of the question that it equals."""
    if not (boxes := _BOX.findall(completion)):
        return None, None
    value = boxes[-1].strip()
    _, *parts = _OPTION.split(question)
    for letter, option in zip(parts[::2], parts[1::2], strict=True):
        if "(" in option:  # such options are not seen
            continue
        if _verify(f"\\boxed{{{value}}}", option.strip().rstrip("."))[0]:
            return value, letter
    return value, None


def _verify(completion: str, reference: str) -> tuple[bool | None, str | None]:
    """Whether anything anchored in the completion equals the reference, says math-verify."""
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    expected = parse(f"${reference.strip().strip('$')}$", extraction_mode="first_match")
    if not expected:
        return None, None
    normalization = NormalizationConfig(
        basic_latex=True,
        units=True,
        malformed_operators=False,
        nits=False,
        boxed="all",
        equations=True,
    )
    latex = LatexExtractionConfig(
        try_extract_without_anchor=False,
        boxed_match_priority=0,
        normalization_config=normalization,
    )
    given = parse(completion, [latex], extraction_mode="all")
    texts = [one for one in given if isinstance(one, str)]
    return bool(verify(expected, given)), texts[-1] if texts else None


def respond(task: dict[str, Any]) -> dict[str, Any]:
    """The response to one line of input."""
    try:
        right, answer = judge(task["completion"], task["reference"], task["question"])
    except Exception as error:  # anything at all may come out of parsing a model's output
        return {"error": f"{type(error).__name__}: {error}"}
    return {"right": right, "answer": answer}


def main() -> None:
    """Serve until the input ends."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    logging.disable(logging.WARNING)  # math-verify's own time limits
    judge("$1$", "1", "")  # loads everything
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(respond(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
