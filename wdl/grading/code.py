"""Whether programs that models have written pass the tests of their problems.

Each is run in a :class:`~wdl.system.sandbox.Sandbox`. Where a problem gives inputs and outputs,
these are compared here, out of the program's reach; otherwise see
:mod:`wdl.grading.code_harness`.
"""

import json
import os
import secrets
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from math import isclose
from pathlib import Path
from typing import Any

from wdl.grading.code_answers import find_code
from wdl.grading.code_tests import read_tests
from wdl.grading.grader import BaseGrader, Grade, Status, Task
from wdl.system.child import ChildFailure
from wdl.system.sandbox import Sandbox
from wdl.system.sandbox_run import Ran

# Raised whenever the same answer may be graded differently than before.
RULES_VERSION = 1
_SHOWN = 200  # characters of what a program says


class CodeGrader(BaseGrader):
    """Runs answers against tests, as many at the same time as there are cores.

    Args:
        sandbox: Where they run.
        workers: How many run at the same time; by default one for each core.
    """

    def __init__(self, sandbox: Sandbox, workers: int | None = None) -> None:
        self._sandbox = sandbox
        self._threads = ThreadPoolExecutor(workers or os.cpu_count() or 1)
        self._harness = Path(__file__).with_name("code_harness.py").read_text(encoding="utf-8")

    def describe(self) -> dict[str, Any]:
        """Sandbox, limits, interpreter and rules, for the record."""
        return {"name": "tests", "rules": RULES_VERSION, **self._sandbox.describe()}

    def grade(self, tasks: Iterable[Task]) -> list[Grade]:
        """A verdict on each task, in order."""
        return list(self._threads.map(self._grade, tasks))

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _grade(self, task: Task) -> Grade:
        code = None
        try:
            tests = read_tests(task.tests)
            code = find_code(
                task.completion, task.complete, task.thinking, tests["entry"], tests["prompt"]
            )
            if code is None:
                missing = Grade("wrong", None, "no code")
                return missing if task.complete else Grade("cut_off", None, "no whole code yet")
            status, detail = self._judge(code, tests)
            return Grade(status, code, detail)
        except ChildFailure as failure:
            return Grade("could_not_grade", code, str(failure))
        except Exception as error:  # whatever a model writes costs its own row alone
            return Grade("could_not_grade", code, f"{type(error).__name__}: {error}")

    def _judge(self, code: str, tests: dict[str, Any]) -> tuple[Status, str]:
        if tests["style"] == "stdin":
            program = code if "__future__" in code else tests["before"] + code
            return self._judge_inputs(program, tests["tests"])
        if tests["style"] == "call":
            return self._judge_calls(code, tests)
        token = secrets.token_hex(16)
        told = {"setup": tests.get("setup", ""), "tests": tests["tests"], "token": token}
        told["entry"] = tests["entry"] if tests.get("called", True) else ""
        ran = self._run(code, tests, told)
        found = _report(ran)
        if found.get("passed") == token and not ran.stopped:
            return "correct", ""
        lacking = str(found.get("missing") or "").partition(".")[0]
        if lacking in tests.get("libs", ()) and not _is_installed(lacking):
            return "could_not_grade", f"{lacking} is not installed"
        return "wrong", _why(ran, found)

    def _run(self, code: str, tests: dict[str, Any], told: dict[str, Any]) -> Ran:
        answer = {"style": tests["style"], "parts": [tests["before"], code]}
        program = f"ANSWER = {answer!r}\n{self._harness}"
        return self._sandbox.run(program, later=json.dumps(told).encode())

    def _judge_inputs(self, code: str, cases: list[dict[str, Any]]) -> tuple[Status, str]:
        for number, case in enumerate(cases, start=1):
            ran = self._sandbox.run(code, stdin=case["input"].encode())
            name = f"test {number} of {len(cases)}"
            if ran.stopped:
                return "wrong", f"{name}: {ran.stopped}"
            if ran.code != 0:
                return "wrong", f"{name}: {_last_line(ran.errors) or f'exit code {ran.code}'}"
            if not same_output(ran.output.decode(errors="replace"), case["output"]):
                return "wrong", f"{name}: another output"
        return "correct", ""

    def _judge_calls(self, code: str, tests: dict[str, Any]) -> tuple[Status, str]:
        cases = tests["tests"]
        for number, case in enumerate(cases, start=1):
            arguments = [json.loads(line) for line in case["input"].split("\n")]
            told = {"name": tests["entry"], "arguments": arguments}
            ran = self._run(code, tests, told)
            found = _report(ran)
            name = f"test {number} of {len(cases)}"
            if ran.stopped or "result" not in found:
                return "wrong", f"{name}: {_why(ran, found)}"
            if not _same_value(found["result"], json.loads(case["output"])):
                return "wrong", f"{name}: another result"
        return "correct", ""


def same_output(given: str, wanted: str) -> bool:
    """Line by line, without blanks at their ends; numbers may be written in another way."""
    lines, others = (
        [line.strip() for line in text.strip().split("\n")] for text in (given, wanted)
    )
    if len(lines) != len(others):
        return False
    return all(
        one == other or _same_numbers(one.split(), other.split())
        for one, other in zip(lines, others, strict=True)
    )


def _same_numbers(given: list[str], wanted: list[str]) -> bool:
    """Whole numbers must be equal, and fractions differ in the last digits of a double at most."""
    if len(given) != len(wanted):
        return False
    for one, other in zip(given, wanted, strict=True):
        if one == other:
            continue
        try:
            whole = "." not in other and "e" not in other.lower()
            if whole or not isclose(float(one), float(other), rel_tol=1e-9, abs_tol=1e-12):
                return False
        except ValueError:
            return False
    return True


def _same_value(text: Any, wanted: Any) -> bool:
    try:
        return json.loads(text) == wanted
    except (TypeError, ValueError, RecursionError):
        return False


def _report(ran: Ran) -> dict[str, Any]:
    """The last thing that the harness has told; the program may have written there too."""
    for line in reversed(ran.report.splitlines()):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        return found if isinstance(found, dict) else {}
    return {}


def _why(ran: Ran, found: dict[str, Any]) -> str:
    if ran.stopped:
        return ran.stopped
    if found.get("error") == "MemoryError":
        return "memory"
    if "failed" in found:
        said = " ".join(f"{found.get('error')}: {found.get('said')}".split()).removesuffix(": ")
        said = said.removesuffix(":")
        return f"{found['failed']}: {said}"[:_SHOWN]
    return f"it ended before its tests did (exit code {ran.code})"


def _last_line(errors: bytes) -> str:
    lines = errors.decode(errors="replace").strip().splitlines()
    return lines[-1][:_SHOWN] if lines else ""


@lru_cache
def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def missing_libraries(tests: Iterable[str]) -> dict[str, int]:
    """Libraries that are named by problems but not installed: in how many of them."""
    counts: dict[str, int] = {}
    for text in tests:
        for name in json.loads(text).get("libs", ()):
            if not _is_installed(name.partition(".")[0]):
                counts[name] = counts.get(name, 0) + 1
    return counts
