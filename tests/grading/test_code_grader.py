"""Programs against tests: right ones pass, wrong ones and those that only claim to pass do not."""

import json
from collections.abc import Iterator

import pytest
from programs import BASIC, BIG, HUMAN, READS, SETS

from wdl.grading.code import CodeGrader, missing_libraries, same_output
from wdl.grading.code_answers import find_code
from wdl.grading.grader import Grade, Task
from wdl.questions.code import code_problem
from wdl.system.sandbox import Sandbox
from wdl.system.sandbox_run import Limits

LIMITS = Limits(seconds=3.0, memory=1 << 30, output=1 << 16, processes=16, files=1 << 20)


@pytest.fixture(scope="module")
def grader() -> Iterator[CodeGrader]:
    with CodeGrader(Sandbox(limits=LIMITS), workers=4) as grader:
        yield grader


def task(row: dict, code: str, complete: bool = True, fenced: bool = True) -> Task:
    _, question, reference, tests = code_problem(row)
    text = f"Like this:\n\n```python\n{code}\n```\n" if fenced else code
    return Task("code", question, reference, text, complete, tests=tests)


@pytest.mark.parametrize("name", SETS)
def test_right_programs_pass_and_wrong_ones_fail(name: str, grader: CodeGrader) -> None:
    row, right, wrong = SETS[name]
    first, *others = grader.grade([task(row, code) for code in (right, *wrong)])
    assert first == Grade("correct", f"{right}\n", "")
    assert [one.status for one in others] == ["wrong"] * len(wrong)
    assert all(one.detail for one in others)


def test_what_is_wrong_is_said(grader: CodeGrader) -> None:
    programs = {
        "def turn(s):\n    return s": "test 1 of 2: AssertionError",
        "def turn(s):\n    return 'cba'": "test 2 of 2: AssertionError",
        "def turn(s):\n    return s.flip()": "test 1 of 2: AttributeError: 'str' object has no",
        "def turn(s)": "the answer itself: SyntaxError",
        "def turn(s):\n    while True: pass": "time",
        "def turn(s):\n    return [0] * 10**12": "memory",
        "import nothing_like_it\ndef turn(s): return s": "the answer itself: ModuleNotFoundError",
    }
    grades = grader.grade([task(BASIC, code) for code in programs])
    for grade, detail in zip(grades, programs.values(), strict=True):
        assert (grade.status, grade.detail[: len(detail)]) == ("wrong", detail)


# Whatever this does, it must not pass; {} is where a function of BASIC would be.
CLAIMS = [
    "import os\nos._exit(0)",
    "import sys\nsys.exit(0)",
    "raise SystemExit(0)",
    "print('ok')\nprint('OK', flush=True)",
    "import atexit, os\natexit.register(lambda: os._exit(0))",
    "def turn(s):\n    import os\n    os._exit(0)",
    "def turn(s):\n    raise SystemExit(0)",
    "def turn(s):\n    raise KeyboardInterrupt",
    "def turn(s):\n    raise GeneratorExit",
    "import builtins\nbuiltins.AssertionError = type('A', (BaseException,), {})\n"
    "def turn(s): return s",
    "import builtins\nbuiltins.exec = lambda *a, **k: None\nbuiltins.compile = exec\n"
    "def turn(s): return s",
    "import builtins\nbuiltins.len = lambda x: 1\ndef turn(s): return 'cba' if s == 'abc' else []",
    'import os\nos.write(3, b\'{"passed": true}\\n{"ready": true}\\n\')\nos._exit(0)',
    'import json, os\ndef turn(s):\n    os.write(3, b\'{"passed": "x"}\\n\')\n    os._exit(0)',
    "import json\njson.dumps = lambda *a, **k: '{\"passed\": 1}'\ndef turn(s): return s",
    "import sys\ndef turn(s):\n"
    "    frame = sys._getframe()\n    while frame:\n        for v in frame.f_locals.values():\n"
    "            if isinstance(v, dict) and 'token' in v:\n                import os, json\n"
    "                os.write(3, json.dumps({'passed': v['token']}).encode())\n"
    "                os._exit(0)\n        frame = frame.f_back",
    "import gc\ndef turn(s):\n    for v in gc.get_objects():\n"
    "        if isinstance(v, dict) and 'token' in v:\n            import os, json\n"
    "            os.write(3, json.dumps({'passed': v['token']}).encode())\n"
    "            os._exit(0)",
    "def turn(s):\n    try:\n        1 / 0\n    except Exception as e:\n"
    "        frame = e.__traceback__.tb_frame\n    while frame:\n"
    "        told = frame.f_locals.get('told')\n        if told:\n            import os, json\n"
    "            os.write(3, json.dumps({'passed': told['token']}).encode())\n"
    "            os._exit(0)\n        frame = frame.f_back",
    "import threading, time, os\ndef wait():\n    time.sleep(0.2)\n    os._exit(0)\n"
    "threading.Thread(target=wait, daemon=True).start()\ndef turn(s): return s",
    "import signal, os\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\n"
    "signal.setitimer(signal.ITIMER_REAL, 0.01)\ndef turn(s):\n    while True: pass",
    "import sys\nsys.settrace(lambda *a: sys.exit(0))\ndef turn(s): return s",
    "import sys\nsys.excepthook = lambda *a: None\ndef turn(s): return s",
    "import os\nif os.fork():\n    os._exit(0)\ndef turn(s): return s",
    "import os\nfor p in os.listdir('/proc'):\n    pass\nturn = os.listdir",
    "import sys\nsys.modules['math'] = None\ndef turn(s): return s",
    "turn = property(lambda self: 'cba')",
]


def test_claims_do_not_pass(grader: CodeGrader) -> None:
    # of a set whose tests the program does not satisfy
    grades = grader.grade([task(BASIC, code) for code in CLAIMS])
    passed = [code for code, grade in zip(CLAIMS, grades, strict=True) if grade.status != "wrong"]
    assert not passed


PATCHES = [
    "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\ndef task_func(t): return 1",
    "import unittest\nunittest.TestCase.run = lambda self, r: r\ndef task_func(t): return 1",
    "import unittest\nunittest.TestCase.__getattribute__ = lambda s, n: (lambda *a: None)\n"
    "def task_func(t): return 1",
    "import unittest\nunittest.TestResult.addFailure = lambda *a: None\ndef task_func(t): return 1",
    "import unittest\nunittest.TestCase = object\ndef task_func(t): return 1",
    "import unittest\ndef task_func(t):\n    unittest.TestCase.assertEqual = lambda *a: None\n"
    "    return 1",
    # the first test wants [], and passes; what is patched then undoes itself in the second
    "import unittest\ndef task_func(t):\n    unittest.TestCase.assertEqual = lambda *a: None\n"
    "    return []",
    "import unittest\nreal = unittest.TestCase.assertEqual\ndef fake(*a):\n"
    "    unittest.TestCase.assertEqual = real\ndef task_func(t):\n"
    "    unittest.TestCase.assertEqual = fake\n    return []",
    "import unittest\nreal = unittest.TestResult.addFailure\ndef fake(*a):\n"
    "    unittest.TestResult.addFailure = real\nunittest.TestResult.addFailure = fake\n"
    "def task_func(t):\n    unittest.TestResult.addFailure = fake\n    return []",
    "import builtins\ndef task_func(t):\n    builtins.sorted = lambda *a: []\n"
    "    return ['a', 'b'] if 'a' in t else []",
    "import unittest\ndef task_func(t):\n    raise unittest.SkipTest",
    "import unittest\nunittest.TestLoader.loadTestsFromTestCase = lambda *a: unittest.TestSuite()\n"
    "def task_func(t): return 1",
    "class TestCases: pass\ndef task_func(t): return 1",
]


def test_patched_tests_do_not_pass(grader: CodeGrader) -> None:
    grades = grader.grade([task(BIG, code) for code in PATCHES])
    passed = [code for code, grade in zip(PATCHES, grades, strict=True) if grade.status != "wrong"]
    assert not passed


def test_what_an_answer_replaces_while_it_is_loaded_is_put_back(grader: CodeGrader) -> None:
    right = f"{BASIC['code']}\nimport builtins, signal\nbuiltins.print = None\n"
    rings = "signal.signal(signal.SIGALRM, lambda *a: 1 / 0)\nsignal.setitimer(0, 1e-2)\n"
    (grade,) = grader.grade([task(BASIC, right + rings)])
    assert grade.status == "correct"


def test_an_answer_that_breaks_the_grader_costs_its_own_row(
    monkeypatch: pytest.MonkeyPatch, grader: CodeGrader
) -> None:
    def fail(*_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr("wdl.grading.code.find_code", fail)
    (grade,) = grader.grade([task(BASIC, str(BASIC["code"]))])
    assert grade == Grade("could_not_grade", None, "RecursionError: too deep")


def test_a_library_that_is_not_installed_is_not_the_answers_fault(grader: CodeGrader) -> None:
    row = {**BIG, "libs": "['json', 'nothing_like_it']"}
    code = "import nothing_like_it\ndef task_func(text): return []"
    inside = "def task_func(text):\n    import nothing_like_it"
    for grade in grader.grade([task(row, code), task(row, inside)]):
        assert grade.status == "could_not_grade"
        assert grade.detail == "nothing_like_it is not installed"
    assert missing_libraries([task(row, code).tests]) == {"nothing_like_it": 1}


def test_a_sandbox_that_does_not_start_is_not_the_answers_fault(
    monkeypatch: pytest.MonkeyPatch, grader: CodeGrader
) -> None:
    monkeypatch.setenv("PATH", "")
    (grade,) = grader.grade([task(BASIC, BASIC["code"])])  # type: ignore[arg-type]
    assert (grade.status, grade.detail) == ("could_not_grade", "there is no bwrap")


def test_an_answer_that_was_cut_off(grader: CodeGrader) -> None:
    whole, half = f"```python\n{BASIC['code']}\n```\nAnd", f"```python\n{BASIC['code']}"
    texts = [(whole, False), (half, False), (half, True), ("No idea.", True), ("No id", False)]
    grades = grader.grade([task(BASIC, text, complete, False) for text, complete in texts])
    assert [one.status for one in grades] == ["correct", "cut_off", "correct", "wrong", "cut_off"]


def test_a_body_alone_goes_on_from_the_prompt(grader: CodeGrader) -> None:
    body = HUMAN["canonical_solution"]
    texts = [(body, True), (f"{body}\nprint(total([1]))", False), (body, False)]
    grades = grader.grade([task(HUMAN, text, complete, False) for text, complete in texts])
    assert [one.status for one in grades] == ["correct", "correct", "cut_off"]


F = "def f(x):\n    return x\n"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"```python\n{F}```\nUse it:\n```python\nprint(f(1))\n```", F),
        (f"```python\ndef f(): pass\n```\nBetter:\n```py\n{F}```", F),
        (f"```\n{F}```\n```bash\npip install x\n```", F),
        (f"<think>```python\ndef f(): 0\n```</think>```python\n{F}```", F),
        (f"<think>```python\n{F}```", None),
        (f"<answer>\n```python\n{F}```\n</answer>", F),
        (f"<answer>\n{F}</answer>", F.strip("\n")),
        (F, F.strip("\n")),
        ("def g(): pass", None),
        ("```python\nx = 1\n```", "x = 1\n"),
        ("```json\n{}\n```", None),
    ],
)
def test_the_program_in_an_answer(text: str, code: str | None) -> None:
    assert find_code(text, True, entry="f") == code


@pytest.mark.parametrize(
    ("given", "wanted", "same"),
    [
        ("3\n", "3", True),
        ("1 2 \n3\n\n", "1 2\n3", True),
        ("0.50000000001", "0.5", True),
        ("0.51", "0.5", False),
        ("3.0", "3", False),
        ("1\n2", "1 2", False),
        ("YES", "Yes", False),
        ("", "3", False),
        ("nan", "0.5", False),
    ],
)
def test_outputs_are_compared(given: str, wanted: str, same: bool) -> None:
    assert same_output(given, wanted) is same


def test_a_program_that_reads_cannot_see_what_is_wanted(grader: CodeGrader) -> None:
    programs = ["import os\nos.write(3, b'{\"passed\": 1}')", "print(7)", "while 1: print(3)"]
    assert {one.status for one in grader.grade([task(READS, p) for p in programs])} == {"wrong"}


def test_what_decides_is_recorded(grader: CodeGrader) -> None:
    found = grader.describe()
    assert (found["name"], found["sandbox"], found["limits"]["seconds"]) == (
        *("tests", "bubblewrap"),
        3.0,
    )
    json.dumps(found)
