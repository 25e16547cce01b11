"""Compares one answer after the other with its reference by math-verify.

    python -m wdl.grading.math_worker

is a child process (see :mod:`wdl.system.child`), because symbolic algebra may take for ever
or all memory: the parent ends it after a time limit, and it limits its own memory. It writes {}
when it is ready; then it reads {"answer": ..., "references": [...]} and writes
{"equal": [true, false, ...]} or {"error": ...}.
"""

import json
import logging
import re
import resource
import sys
from fractions import Fraction
from typing import Any

from wdl.system.processes import die_with_parent

MAX_MEMORY = 4 << 30
TINY = 1e-3
RELATIVE_ERROR = 1e-5

# What math-verify 0.9 does not understand, in words that it does.
_TRANSLATIONS = (
    (re.compile(r"\\varnothing\b"), r"\\emptyset"),
    (re.compile(r"√\s*(\d+|[a-z]|\([^()]*\)|\{[^{}]*\})"), r"\\sqrt{\1}"),
    (re.compile(r"\\(?:text|mathrm|textrm|mbox)\s*\{[^{}]*\b(?:or|and)\b[^{}]*\}"), " and "),
    (re.compile(r"[\s,]*\s(?:or|and)\s[\s,]*"), ","),
    (re.compile(r"(?<=[\w)])\s*\*\*\s*(-?\w+|\([^()]*\))"), r"^{\1}"),
    (re.compile(r"\^\s*\{?\s*(?:\\text\s*\{\s*)?(?:st|nd|rd|th)\s*\}{0,2}$"), ""),
    # Letters at the end are variables, but math-verify takes them for units and drops them.
    (
        re.compile(r"(?<![a-zA-Z\\])(?!(?:[ckm]m|[km]g|lb|ft|hr|oz|(?<=\s)m)$)([a-z]{1,2})$"),
        r"{\1}",
    ),
    (re.compile(r"^\s*\\text\s*\{[^{}\d]*\}\s*(?==?\s*[-\d.\\$])=?"), ""),
    (
        re.compile(r"\\(sin|cos|tan|cot|sec|csc)\s*[({]?\s*([\d.]+)\s*\^\{?\\circ\}?\s*[)}]?"),
        r"\\\1(\\frac{\2\\pi}{180})",
    ),
    (re.compile(r"(\d*\.\d*)\\overline\s*\{?(\d+)\}?"), lambda match: _repeating(match)),
)


def equal(answer: str, reference: str) -> bool:
    """Whether math-verify holds an answer to be the reference.

    Raises:
        ValueError: The reference is nothing that math-verify can read.
    """
    from math_verify import parse

    expected, given = (
        parse(f"\\boxed{{{_translate(text)}}}", parsing_timeout=None, raise_on_error=True)
        for text in (reference, answer)
    )
    if not expected:
        raise ValueError(f"math-verify cannot read the reference {reference!r}")
    if _differ_though_tiny(expected[0], given[0] if given else None):
        return False
    return _verify(expected, given) or _verify(_with_imaginary(expected), _with_imaginary(given))


def _verify(expected: list[Any], given: list[Any]) -> bool:
    from math_verify import verify

    return verify(
        expected, given, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True
    )


def _differ_though_tiny(expected: Any, given: Any) -> bool:
    """Whether numbers, or those of two lists, differ that math-verify would round to 0."""
    left, right = (
        sorted(_numbers(one), key=lambda one: one.evalf(30)) for one in (expected, given)
    )
    if len(left) != len(right):
        return False
    for one, other in zip(left, right, strict=True):
        x, y = one.evalf(30), other.evalf(30)
        size = max(abs(x), abs(y))
        if size < TINY and abs(x - y) > RELATIVE_ERROR * size and not (one - other).equals(0):
            return True
    return False


def _numbers(parsed: Any) -> list[Any]:
    """The real numbers of a sympy object, or of the elements of a list, set or interval."""
    from sympy import Expr, FiniteSet, Interval, Tuple

    if isinstance(parsed, (Tuple, FiniteSet)):
        return [number for element in parsed.args for number in _numbers(element)]
    if isinstance(parsed, Interval):
        return [*_numbers(parsed.start), *_numbers(parsed.end)]
    real = isinstance(parsed, Expr) and parsed.is_number and parsed.evalf(30).is_Float
    return [parsed] if real or parsed == 0 else []


def _with_imaginary(parsed: list[Any]) -> list[Any]:
    """The same with i as the imaginary unit, which math-verify takes for a variable."""
    from sympy import Basic, I

    return [
        one.subs({symbol: I for symbol in one.free_symbols if str(symbol) == "i"})
        if isinstance(one, Basic)
        else one
        for one in parsed
    ]


def _translate(text: str) -> str:
    for pattern, replacement in _TRANSLATIONS:
        text = pattern.sub(replacement, text)
    return text


def _repeating(match: re.Match[str]) -> str:
    """A repeating decimal such as 0.1(6) as a fraction."""
    start, period = match[1], match[2]
    end = Fraction(int(period), 10 ** len(start.partition(".")[2]) * (10 ** len(period) - 1))
    value = Fraction(start) + end
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


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
    sys.set_int_max_str_digits(0)
    logging.disable(logging.WARNING)  # math-verify warns that its own time limits are off
    equal("1", "1")  # loads everything
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(respond(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
