"""Rows of sets of programming problems, as problems with tests.

    {"prompt", "entry_point", "test"}                            HumanEval, HumanEval+: check(f)
    {"text" or "prompt", "code", "test_list"}                    MBPP and its sanitized part
    {"prompt", "code", "test_list", "test"}                      MBPP+: the whole test as a text
    {"instruct_prompt", "code_prompt", "test", "entry_point"}    BigCodeBench: unittest
    {"question_content", "starter_code", "public_test_cases", "private_test_cases"}
                                                                 LiveCodeBench

each with its ``task_id`` or ``question_id``. The reference of such a problem says which tests it
has, by their digest; the tests themselves are JSON beside it, with the keys of
:func:`wdl.grading.code_tests.read_tests`.
"""

import ast
import json
from typing import Any

from wdl.data.rows import RowError
from wdl.grading.code_tests import read_cases, read_json, unpack_cases
from wdl.system.digests import value_digest

_WHOLE = (
    "Answer with the whole program, with all imports that it needs, in one code block that begins "
    "with ```python and ends with ```."
)
_FUNCTION = "Complete this Python function.\n\n```python\n{}\n```\n\n" + _WHOLE
_TASK = "{}\n\nThe code must pass tests like these:\n\n```python\n{}\n```\n\n" + _WHOLE
_PLAIN = "{}\n\n" + _WHOLE
_STARTED = "{}\n\nUse this beginning:\n\n```python\n{}\n```\n\n" + _WHOLE
_READS = (
    "{}\n\nWrite a Python program that reads from standard input and prints to standard output. "
) + _WHOLE
# What the sites that LiveCodeBench's problems come from import before every program.
_USUAL = """\
import bisect, collections, copy, functools, heapq, itertools, math, operator, random, re, string
import sys
from bisect import *
from collections import *
from functools import *
from heapq import *
from itertools import *
from math import *
from typing import *
from builtins import *
sys.setrecursionlimit(50_000)
"""


def code_problem(row: Any) -> tuple[str, str, str, str]:
    """Id, question, reference and tests of a row.

    Raises:
        RowError: It fits no schema, or a field is empty or of another type.
    """
    if not isinstance(row, dict):
        raise RowError("a row is an object with a problem and its tests; write {...}")
    row = {key: value for key, value in row.items() if value is not None}
    identity = row.get("task_id", row.get("question_id"))
    if not isinstance(identity, str | int) or isinstance(identity, bool) or identity == "":
        raise RowError("the row has no 'task_id' (or 'question_id'); give it one")
    if "question_content" in row:
        question, tests = _live(row)
    elif "instruct_prompt" in row or "complete_prompt" in row:
        question, tests = _big(row)
    elif "test_list" in row:
        question, tests = _basic(row)
    elif "entry_point" in row:
        question, tests = _human(row)
    else:
        raise RowError(
            "the row fits none of HumanEval, MBPP, BigCodeBench and LiveCodeBench; "
            "give it 'entry_point' and 'test', or 'test_list'"
        )
    return str(identity), question, f"tests {value_digest(tests)[:16]}", json.dumps(tests)


def _human(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    prompt, entry, test = (_text(row, key) for key in ("prompt", "entry_point", "test"))
    _parsed(test, "test")
    if "def check" not in test:
        raise RowError("'test' defines no check(candidate); give the row its set's tests")
    tests = {"style": "check", "entry": entry, "before": _before(prompt, entry)}
    return _FUNCTION.format(prompt.strip()), {**tests, "prompt": prompt, "tests": [test]}


def _basic(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    task = _text(row, "text" if "text" in row else "prompt")
    shown = row["test_list"]
    if not isinstance(shown, list) or not shown or not all(isinstance(one, str) for one in shown):
        raise RowError("'test_list' must be a list of one assertion or more")
    hidden = row.get("challenge_test_list", [])
    if not isinstance(hidden, list) or not all(isinstance(one, str) for one in hidden):
        raise RowError("'challenge_test_list' must be a list of assertions")
    imports, begun = row.get("test_imports", []), row.get("test_setup_code", "")
    if not isinstance(imports, list) or not all(isinstance(one, str) for one in [*imports, begun]):
        raise RowError("'test_imports' must be a list of lines, and 'test_setup_code' a text")
    setup = "\n".join([*imports, begun])
    run = [_text(row, "test")] if "test" in row else shown
    for test in [setup, *run, *hidden]:
        _parsed(test, "test_list")
    # the challenge tests are not part of the set's usual score
    tests = {"style": "check", "entry": _called(shown[0]), "before": "", "prompt": ""}
    lines = "\n".join(shown)
    return _TASK.format(task.strip(), lines), {
        **tests,
        "setup": setup,
        "called": False,
        "tests": run,
    }


def _big(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    asked = _text(row, "instruct_prompt")
    begun, entry, test = (_text(row, key) for key in ("code_prompt", "entry_point", "test"))
    _parsed(test, "test")
    if "class TestCases" not in test:
        raise RowError("'test' defines no class TestCases; give the row its set's tests")
    libs = row.get("libs", "[]")
    try:
        libs = ast.literal_eval(libs) if isinstance(libs, str) else libs
    except (ValueError, SyntaxError):
        libs = None
    if not isinstance(libs, list) or not all(isinstance(one, str) for one in libs):
        raise RowError("'libs' must be a list of names of modules, or that as a text")
    tests = {"style": "unittest", "entry": entry, "before": _before(begun, entry)}
    return _PLAIN.format(asked.strip()), {
        **tests,
        "prompt": row.get("complete_prompt", ""),
        "tests": test,
        "libs": libs,
    }


def _live(row: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    question = _text(row, "question_content")
    public, private = row.get("public_test_cases", "[]"), row.get("private_test_cases", "[]")
    cases = [*read_cases(public, "public_test_cases"), *unpack_cases(private)]
    kinds = {case["testtype"] for case in cases}
    if len(kinds) != 1:
        raise RowError(f"the tests must be of one testtype, not {len(kinds)}; mend the test cases")
    # kept as they came, which is a tenth of what they unpack to
    tests = {"before": _USUAL, "prompt": "", "tests": json.dumps([public, private])}
    if kinds == {"stdin"}:
        return _READS.format(question.strip()), {"style": "stdin", "entry": "", **tests}
    name = _loaded(row.get("metadata", "{}"), "metadata").get("func_name")
    if not isinstance(name, str) or not name.isidentifier():
        raise RowError("'metadata' names no func_name, which tests by calls need")
    for case in cases:
        for line in case["input"].split("\n"):
            read_json(line, "input")
        read_json(case["output"], "output")
    starter = _text(row, "starter_code")
    asked = _STARTED.format(question.strip(), starter.strip())
    return asked, {"style": "call", "entry": name, **tests}


def _loaded(value: Any, key: str) -> dict[str, Any]:
    found = read_json(value, key) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise RowError(f"{key!r} must be an object")
    return found


def _text(row: dict[str, Any], key: str) -> str:
    if not isinstance(row.get(key), str) or not row[key].strip():
        raise RowError(f"{key!r} is missing or empty; give it a text")
    return row[key]


def _parsed(code: Any, key: str) -> None:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        raise RowError(f"{key!r} is not Python; load the set again") from None


def _before(prompt: str, entry: str) -> str:
    """Imports and helpers that the prompt gives before the function to be written."""
    lines = prompt.splitlines(keepends=True)
    starts = (f"def {entry}(", f"async def {entry}(", f"class {entry}")
    places = [n for n, line in enumerate(lines) if line.startswith(starts)]
    if not places:
        raise RowError(f"the prompt begins no function {entry!r}; mend 'entry_point'")
    code = "".join(lines[: places[-1]])
    _parsed(code, "prompt")
    return code


def _called(assertion: str) -> str:
    """The function that a first assertion is about, if that can be seen."""
    try:
        nodes = ast.walk(ast.parse(assertion))
    except (SyntaxError, ValueError):
        raise RowError("'test_list' is not Python; load the set again") from None
    builtin = {"set", "sorted", "list", "tuple", "round", "abs", "len", "str", "sum", "dict"}
    names = (n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name))
    return next((name for name in names if name not in builtin), "")
