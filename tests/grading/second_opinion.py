r"""An oracle for the grader that shares nothing with it but the question it answers.

It finds the answer, reads its LaTeX with a small parser of its own and evaluates it in floating
point, with every variable at fixed points. Where it understands too little it has no opinion.
"""

import cmath
import math
import random
import re
from collections.abc import Callable

Value = complex
_POINTS = 3
_TOO_LONG = 400
_LARGEST = 100  # argument of a factorial or binomial
_FUNCTIONS: dict[str, Callable[[Value], Value]] = {
    "sin": cmath.sin,
    "cos": cmath.cos,
    "tan": cmath.tan,
    "ln": cmath.log,
    "log": cmath.log10,
    "exp": cmath.exp,
    "arcsin": cmath.asin,
    "arccos": cmath.acos,
    "arctan": cmath.atan,
}
_TOKEN = re.compile(
    r"\s+|(?P<word>[a-zA-Z]{3,})|(?P<number>(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)|\\(?P<command>[a-zA-Z]+)|(?P<symbol>[a-zA-Z])|(?P<mark>.)",
    re.DOTALL,
)


class _NotUnderstood(Exception):
    """The text is beyond this parser."""


def second_opinion(
    completion: str, reference: str, tolerance: float = 0.0, choices: dict[str, str] | None = None
) -> bool | None:
    """Whether a completion states the reference answer.

    Args:
        completion: What the model wrote.
        reference: The right answer; a letter if there are ``choices``.
        tolerance: Largest difference between equal numbers.
        choices: Letter and value of each option of a multiple-choice question.

    Returns:
        The verdict, or None where there is none.
    """
    answer = _answer(completion)
    if answer is None or not _clean(answer):
        return False
    if choices is not None:
        return _same_choice(_clean(answer), reference, choices)
    return _same(_clean(answer), _clean(reference), tolerance)


def _answer(completion: str) -> str | None:
    final = completion.split("</think>")[-1]
    start = max(final.rfind("boxed{"), final.rfind("boxed {"))
    if start < 0:
        stated = re.findall(r"(?i)answer\W+(?:is\W+)?([^\s<>]+)", final)
        return stated[-1].strip(".*") if stated else None
    rest, depth = final[start:].partition("{")[2], 1
    for position, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[:position]
    return None


def _clean(text: str) -> str:
    for old in ("\\left", "\\right", "\\displaystyle", "\\$", "$", "\\!", "^\\circ"):
        text = text.replace(old, "")
    for old in ("\\,", "\\;", "\\:", "\\ ", "~", "{,}", "^{\\circ}", "°"):
        text = text.replace(old, " " if old != "{,}" else "")
    text = re.sub(r"\\(?:text|mathrm)\s*\{\s*(?:or|and)\s*\}", ",", text)
    text = re.sub(r"\\(?:textbf|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    inner = re.sub(r"\\(?:text|mathrm)\s*\{([^{}]*)\}", r"\1", text)
    outer = re.sub(r"\\(?:text|mathrm)\s*\{[^{}]*\}(?:\^\{?\d\}?)?", "", text)
    text = outer if re.search(r"\d", outer) else inner
    return re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text).strip().rstrip(" .\\")


def _same_choice(answer: str, reference: str, choices: dict[str, str]) -> bool | None:
    letter = re.match(r"\(?([A-Ea-e])(?![a-zA-Z0-9])", answer)
    if letter:
        return letter[1].upper() == reference
    equal = [name for name, value in choices.items() if _same(answer, _clean(value), 0.0)]
    return equal == [reference] if equal else None


def _same(answer: str, reference: str, tolerance: float) -> bool | None:
    if answer.replace(" ", "").lower() == reference.replace(" ", "").lower():
        return True
    if len(answer) > _TOO_LONG or "%" in answer + reference:
        return None
    try:
        return _equal(_structure(answer), _structure(reference), tolerance)
    except (_NotUnderstood, ArithmeticError, ValueError, RecursionError):
        return None


def _structure(text: str) -> tuple[str, list[list[Value]]]:
    """Brackets, and the value of each item between them at each of the points."""
    text = text.strip()
    if text.startswith("\\{") and text.endswith("\\}"):
        text = text[2:-2]
    enclosed = text[:1] in ("(", "[") and text[-1:] in (")", "]") and len(_split(text)) == 1
    if enclosed and len(items := _split(text[1:-1])) > 1:
        return text[0] + text[-1], [_values(item) for item in items]
    return "", [_values(item) for item in _split(text)]


def _split(text: str) -> list[str]:
    """Items between the commas outside of all brackets."""
    items, depth = [""], 0
    for character in text:
        depth += {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}.get(character, 0)
        if depth < 0:  # (x-y)(x+y), seen without its first and last character
            return [text]
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    return items


def _values(item: str) -> list[Value]:
    """What the right-hand side of an item is worth at each of the points."""
    left = item.rpartition("=")[0].strip()
    if re.search(r"[a-zA-Z]", left) and not re.fullmatch(r"\w|\w\(\w\)", left):
        raise _NotUnderstood("an equation between expressions")
    return [_Parser(item.split("=")[-1], point).value() for point in range(_POINTS)]


def _equal(
    left: tuple[str, list[list[Value]]], right: tuple[str, list[list[Value]]], tolerance: float
) -> bool:
    if left[0] != right[0] or len(left[1]) != len(right[1]):
        return False
    candidates = list(right[1])
    for item in left[1]:
        pool = candidates[:1] if left[0] else candidates
        match = next((other for other in pool if _close(item, other, tolerance)), None)
        if match is None:
            return False
        candidates.remove(match)
    return True


def _close(left: list[Value], right: list[Value], tolerance: float) -> bool:
    return all(
        abs(x - y) <= max(tolerance, 1e-9 * max(abs(x), abs(y), 1e-9))
        for x, y in zip(left, right, strict=True)
    )


class _Parser:
    """Sums of products of powers, evaluated as they are read."""

    def __init__(self, text: str, point: int) -> None:
        self._tokens = [
            (match.lastgroup, match.group(match.lastgroup))
            for match in _TOKEN.finditer(text)
            if match.lastgroup
        ]
        self._next = 0
        self._point = point

    def value(self) -> Value:
        result = self._sum()
        if self._next < len(self._tokens):
            raise _NotUnderstood(self._tokens[self._next])
        return result

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._next] if self._next < len(self._tokens) else ("end", "")

    def _take(self, *marks: str) -> str | None:
        if self._peek()[1] in marks and self._peek()[0] in ("mark", "command"):
            self._next += 1
            return self._tokens[self._next - 1][1]
        return None

    def _expect(self, mark: str) -> None:
        if self._take(mark) is None:
            raise _NotUnderstood(mark)

    def _sum(self) -> Value:
        total = self._product()
        while sign := self._take("+", "-", "−"):
            total += self._product() * (1 if sign == "+" else -1)
        return total

    def _product(self) -> Value:
        total = self._signed()
        while True:
            if self._take("*", "cdot", "times"):
                total *= self._signed()
            elif self._take("/", "div"):
                total /= self._signed()
            elif self._peek()[0] in ("symbol", "command") or self._peek()[1] == "(":
                total = self._adjacent(total)
            elif self._peek()[0] == "number":
                raise _NotUnderstood("two numbers in a row")
            else:
                return total

    def _adjacent(self, left: Value) -> Value:
        """A product without a sign; a whole number and a fraction are a mixed number."""
        mixed = self._peek()[1] in ("frac", "dfrac", "tfrac") and (
            self._next and self._tokens[self._next - 1][0] == "number"
        )
        right = self._power()
        return left + right if mixed else left * right

    def _signed(self) -> Value:
        if sign := self._take("+", "-", "−", "approx"):
            return self._signed() * (-1 if sign in "-−" else 1)
        return self._power()

    def _power(self) -> Value:
        base = self._atom()
        if self._take("!"):
            if base != int(base.real) or not 0 <= base.real <= _LARGEST:
                raise _NotUnderstood("factorial")
            base = complex(math.factorial(int(base.real)))
        if self._take("^"):
            return base ** self._argument()
        return base

    def _argument(self) -> Value:
        r"""A group in braces, or one token alone: ``\frac12`` is a half."""
        if self._take("{"):
            inside = self._sum()
            self._expect("}")
            return inside
        kind, text = self._peek()
        if kind == "number" and len(text) > 1:
            self._tokens[self._next] = ("number", text[1:])
            return complex(float(text[0]))
        return self._signed() if kind == "mark" else self._atom()

    def _atom(self) -> Value:
        kind, text = self._peek()
        self._next += 1
        if kind == "number":
            return complex(float(text))
        if kind == "symbol" or text == "theta":
            return self._variable(text)
        if kind == "command":
            return self._command(text)
        closing = {"(": ")", "{": "}", "[": "]", "|": "|"}.get(text)
        if closing is None:
            raise _NotUnderstood(text)
        inside = self._sum()
        self._expect(closing)
        return complex(abs(inside)) if text == "|" else inside

    def _variable(self, name: str) -> Value:
        constants = {"e": complex(math.e), "i": 1j}
        return constants.get(name) or complex(
            random.Random(f"{name}{self._point}").uniform(0.5, 2.5)
        )

    def _command(self, name: str) -> Value:
        if name in ("frac", "dfrac", "tfrac", "cfrac"):
            return self._argument() / self._argument()
        if name in ("binom", "dbinom", "tbinom"):
            above, below = self._argument(), self._argument()
            if max(above.real, below.real) > _LARGEST:
                raise _NotUnderstood("a large binomial")
            return complex(math.comb(int(above.real), int(below.real)))
        if name == "sqrt":
            return self._root()
        if name == "pi":
            return complex(math.pi)
        if name in _FUNCTIONS:
            return self._function(name)
        raise _NotUnderstood(name)

    def _root(self) -> Value:
        degree = 2 + 0j
        if self._take("["):
            degree = self._sum()
            self._expect("]")
        return self._argument() ** (1 / degree)

    def _function(self, name: str) -> Value:
        base = self._argument() if name == "log" and self._take("_") else None
        exponent = self._argument() if self._take("^") else 1
        argument = self._power()
        result = cmath.log(argument) / cmath.log(base) if base else _FUNCTIONS[name](argument)
        return result**exponent
