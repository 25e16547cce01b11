r"""Plain numbers as people write them: ``1,234.50``, ``\frac{3}{4}``, ``2 1/2``, ``25\%``, ``\$5``.

Whatever is not plainly one number is left to math-verify.
"""

import re
from fractions import Fraction

from wdl.grading.notation import WRAPPERS, plain

MAX_LENGTH = 200
"""Longer texts are no plain numbers; a model that repeats a digit for ever writes them."""

_WORDS_IN_FRONT = re.compile(r"^\s*\\text\s*\{[^{}\d]*\}\s*(?==?\s*[-\d.\\$])=?|^\s*\\approx\b")
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([\d.]+)\}|(\d))\s*(?:\{([\d.]+)\}|(\d))")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_SCALES = {"": 1, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_NAMES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen twenty"
)
_WORDS = {name: str(number) for number, name in enumerate(_NAMES.split())}
# What is a unit although it is short; other letters behind a number may be variables.
_SHORT = "[ckm]?m|[km]?g|m?l|lbs?|oz|ft|yd|h|hrs?|s|min|mph|am|pm"
_NUMBER = re.compile(
    rf"""(?P<sign>[-+]?)\s*
    (?:(?P<whole>\d+)\s+(?=\d+/\d))?
    (?P<value>(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d{{1,3}})?)
    (?:\s*/\s*(?P<denominator>\d+\.?\d*))?
    \s*(?P<scale>hundred|thousand|million|billion)?
    \s*(?P<percent>%|percent\b)?
    (?:\s*°.?|(?:\s+(?:(?:{_SHORT}|in|of|per|to|an?\s)\b|[a-z]{{3}})|(?:cm|mm|km|kg|mg|lbs?|ft)\b
    |(?!arc|sin|cos|tan|cot|sqrt|exp|log)[a-z]{{4}})(?:\D|\^\d)*)?""",  # a unit; "3x" has none
    re.VERBOSE | re.IGNORECASE,
)
_BASES = {name: number for number, name in enumerate(_NAMES.split()) if number > 1}
_IN_BASE = re.compile(
    rf"(?:.*=)?\s*([\dA-Z ]*\d[\dA-Z ]*|[A-F]+)\s*(?:_\s*|\(?(?:in )?base[ -]?)\(?(?:base )?"
    rf"(\d\d?|{'|'.join(_BASES)})\s*\)*"
)


def parse_number(text: str) -> tuple[Fraction, bool] | None:
    """The number that a text states, and whether it states it in per cent.

    Units behind the number, currency signs, thousands commas and LaTeX spacing are understood. A
    variable, an operator or a second number make the text no plain number.

    Returns:
        The number before the per cent sign, exactly; or None.
    """
    match = _NUMBER.fullmatch(simplify(text)) if len(text) <= MAX_LENGTH else None
    if match is None:
        return None
    denominator = Fraction(match["denominator"] or 1)
    if not denominator:
        return None
    value = Fraction(match["whole"] or 0) + Fraction(match["value"]) / denominator
    value *= _SCALES[(match["scale"] or "").lower()]
    return (-value if match["sign"] == "-" else value), match["percent"] is not None


def equal_numbers(answer: str, reference: str, tolerance: float) -> bool | None:
    """Whether two plain numbers are equal; None if either is no plain number.

    A number in per cent equals the bare number as well as its hundredth part.
    """
    left, right = parse_number(answer), parse_number(reference)
    if left is None or right is None:
        return None
    return any(abs(x - y) <= tolerance for x in _readings(*left) for y in _readings(*right))


def equal_in_base(answer: str, reference: str) -> bool | None:
    """Whether numbers such as 61_8 are the same, digits and base; None if neither names a base.

    An answer that leaves the base out is taken to be in the reference's, which was asked for.
    """
    given, expected = (_in_base(text) for text in (answer, reference))
    if expected:
        return given == expected if given else simplify(answer) == expected[0]
    if given:
        number = parse_number(reference)
        return number is not None and number[0] == int(*given)
    return None


def simplify(text: str) -> str:
    """A text without the LaTeX that changes how a number looks and not what it is."""
    text = _WORDS_IN_FRONT.sub("", plain(text))
    text = WRAPPERS.sub(r" \1", text.replace("\\%", "%"))
    text = re.sub(r"(?<=\d)\{,\}(?=\d{3})", ",", text)
    text = re.sub(r"\^\{?\\circ\}?|\\degree", "°", text)
    text = _FRACTION.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]}", text)
    text = re.sub(r"[€£{}]", "", text).strip().rstrip(".,~ \\")
    text = _WORDS.get(text.lower(), text)
    text = re.sub(r"(?<=\d) (?=\d{3}(?:\D|$))(?!\d+/)", "", text)
    return _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text).strip()


def _in_base(text: str) -> tuple[str, int] | None:
    """Digits and base of a number that names its base."""
    text = re.sub(r"[{}]", "", WRAPPERS.sub(r" \1", plain(text))).strip()
    match = _IN_BASE.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        return None
    digits = match[1].replace(" ", "").lstrip("0") or "0"
    base = _BASES.get(match[2]) or int(match[2])
    try:
        int(digits, base)
    except ValueError:  # an index, as in x_2
        return None
    return digits, base


def _readings(value: Fraction, percent: bool) -> list[Fraction]:
    return [value, value / 100] if percent else [value]
