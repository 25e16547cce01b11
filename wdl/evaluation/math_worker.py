"""Compares one answer after the other with its reference by math-verify.

    python -m wdl.evaluation.math_worker

is a child process (see :mod:`wdl.evaluation.child`), because symbolic algebra may take for ever
or all memory: the parent ends it after a time limit, and it limits its own memory. It reads
{"answer": ..., "references": [...]} and writes {"equal": [true, false, ...]} or {"error": ...}.
"""

import json
import logging
import resource
import sys
from typing import Any

from wdl.evaluation.child import die_with_parent

MAX_MEMORY = 4 << 30


def equal(answer: str, reference: str) -> bool:
    """Whether math-verify holds an answer to be the reference.

    Raises:
        ValueError: The reference is nothing that math-verify can read.
    """
    from math_verify import parse, verify

    expected = parse(f"\\boxed{{{reference}}}", parsing_timeout=None, raise_on_error=True)
    if not expected:
        raise ValueError(f"math-verify cannot read the reference {reference!r}")
    given = parse(f"\\boxed{{{answer}}}", parsing_timeout=None, raise_on_error=True)
    return verify(expected, given, timeout_seconds=None, raise_on_error=True)


def respond(task: dict[str, Any]) -> dict[str, Any]:
    """The response to one line of input."""
    try:
        return {"equal": [equal(task["answer"], reference) for reference in task["references"]]}
    except Exception as error:  # anything at all may come out of parsing a model's output
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Serve until the input ends."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    logging.disable(logging.WARNING)  # math-verify warns that its own time limits are off
    for line in sys.stdin:
        print(json.dumps(respond(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
