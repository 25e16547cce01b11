"""Small sets of programming problems, one in each schema, with right and wrong programs."""

import base64
import json
import pickle
import zlib
from typing import Any

HUMAN = {
    "task_id": "Mine/0",
    "prompt": "from typing import List\n\n\ndef twice(x: int) -> int:\n    return 2 * x\n\n\n"
    'def total(xs: List[int]) -> int:\n    """Twice the sum.\n\n    >>> total([1, 2])\n    6\n'
    '    """\n',
    "entry_point": "total",
    "canonical_solution": "    return twice(sum(xs))\n",
    "test": "def check(candidate):\n    assert candidate([]) == 0\n"
    "    assert candidate([1, 2]) == 6\n    assert twice(4) == 8\n",
}
BASIC = {
    "task_id": 11,
    "text": "Write a function to reverse a text.",
    "code": "def turn(s):\n    return s[::-1]",
    "test_list": ['assert turn("abc") == "cba"', "assert math.floor(1.5) == len(turn('a'))"],
    "test_setup_code": "import math",
    "challenge_test_list": [],
}
SANITIZED = {
    "task_id": 12,
    "prompt": "Write a function to square a number.",
    "code": "def square(x):\n    return x * x",
    "test_imports": ["import math"],
    "test_list": ["assert square(3) == math.pow(3, 2)"],
}
PLUS = {
    **SANITIZED,
    "task_id": 13,
    "test": "import math\ninputs = [[1], [2], [-3]]\nfor given in inputs:\n"
    "    assert square(*given) == given[0] ** 2\n",
}
BIG = {
    "task_id": "Big/0",
    "complete_prompt": "import json\n\ndef task_func(text):\n    '''Read it.'''\n",
    "instruct_prompt": "Read a text of JSON and give its keys, sorted. Begin with:\n"
    "```\nimport json\ndef task_func(text):\n```",
    "canonical_solution": "    return sorted(json.loads(text))\n",
    "code_prompt": "import json\ndef task_func(text):\n",
    "test": "import unittest\nfrom unittest.mock import patch\n"
    "class TestCases(unittest.TestCase):\n"
    "    def test_keys(self):\n"
    "        self.assertEqual(task_func('{\"b\": 1, \"a\": 2}'), ['a', 'b'])"
    "\n    @patch('builtins.print')\n    def test_empty(self, shown):\n"
    "        self.assertEqual(task_func('{}'), [])\n        shown.assert_not_called()\n",
    "entry_point": "task_func",
    "libs": "['json']",
}


def packed(cases: list[dict[str, str]]) -> str:
    """Private tests, as LiveCodeBench has them."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


READS = {
    "question_id": "reads",
    "question_content": "Print the sum of the numbers.",
    "starter_code": "",
    "public_test_cases": json.dumps([{"input": "1 2\n", "output": "3\n", "testtype": "stdin"}]),
    "private_test_cases": packed([{"input": "1 1 5", "output": "7", "testtype": "stdin"}]),
    "metadata": "{}",
}
_CALL = {"input": '[3, 1]\n"x"', "output": '["x", 1, 3]', "testtype": "functional"}
CALLS = {
    "question_id": "calls",
    "question_content": "Put a mark before the sorted numbers.",
    "starter_code": "class Solution:\n    def mark(self, xs: List[int], sign: str) -> list:\n",
    "public_test_cases": json.dumps([_CALL]),
    "private_test_cases": packed([{**_CALL, "input": '[]\n"y"', "output": '["y"]'}]),
    "metadata": json.dumps({"func_name": "mark"}),
}
# each row with a right program and wrong ones
SETS: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "humaneval": (
        HUMAN,
        HUMAN["prompt"] + HUMAN["canonical_solution"],
        ["def total(xs):\n    return sum(xs)", "def total(xs:\n", "x = 1"],
    ),
    "mbpp": (BASIC, BASIC["code"], ["def turn(s):\n    return s"]),  # type: ignore[dict-item]
    "sanitized": (SANITIZED, SANITIZED["code"], ["square = 3"]),  # type: ignore[dict-item]
    "mbppplus": (PLUS, PLUS["code"], ["def square(x):\n    return abs(x) * x"]),  # type: ignore[dict-item]
    "bigcodebench": (
        BIG,
        BIG["code_prompt"] + BIG["canonical_solution"],
        ["import json\ndef task_func(text):\n    print(1)\n    return sorted(json.loads(text))"],
    ),
    "stdin": (
        READS,
        "if __name__ == '__main__':\n    print(sum(map(int, input().split())))",
        ["print(3)", "print(sum(map(int, input().split())));raise SystemExit(1)"],
    ),
    "functional": (
        CALLS,
        "class Solution:\n    def mark(self, xs: List[int], sign):\n"
        "        return [sign, *sorted(xs)] if pow(2, 3, 5) == 3 else 0",
        ["class Solution:\n    def mark(self, xs, sign):\n        return [sign, *xs]"],
    ),
}
