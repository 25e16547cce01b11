"""Plain numbers; how answers compare is in the hard cases."""

from fractions import Fraction

import pytest

from wdl.grading.plain_numbers import equal_in_base, equal_numbers, parse_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", Fraction(12)),
        ("-12.50", Fraction(-25, 2)),
        (".5", Fraction(1, 2)),
        ("1,234,567", Fraction(1234567)),
        (r"\$1{,}234.50", Fraction(2469, 2)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"-\dfrac34", Fraction(-3, 4)),
        (r"3\frac{1}{2}", Fraction(7, 2)),
        (r"-3 1/2", Fraction(-7, 2)),
        (r"18\text{ km}", Fraction(18)),
        ("5 million dollars", Fraction(5_000_000)),
        (r"90^\circ", Fraction(90)),
    ],
)
def test_reads(text: str, value: Fraction) -> None:
    assert parse_number(text) == (value, False)


def test_reads_per_cent() -> None:
    assert parse_number(r"12.5\%") == (Fraction(25, 2), True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "3x",
        "3xy",
        "7 t",
        "1,2",
        "2+3",
        "5!",
        "1/0",
        "(3)",
        "12:30",
        "25 or 30",
        "9" * 5000,
    ],
)
def test_leaves_alone(text: str) -> None:
    assert parse_number(text) is None


def test_tolerance_is_a_difference() -> None:
    assert equal_numbers("5.3333", "5.333333", tolerance=1e-3)
    assert equal_numbers("5.3333", "5.333333", tolerance=0) is False
    assert equal_numbers("x", "5", tolerance=1) is None


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("61_8", "61_{8}", True),
        ("61₈", "61_8", True),
        ("61_9", "61_8", False),
        ("61", "61_8", True),
        ("49", "61_8", False),
        ("61_8", "49", True),
        ("61_8", "61", False),
        ("x_2", "5", None),
        ("61", "61", None),
    ],
)
def test_numbers_that_name_their_base(answer: str, reference: str, same: bool | None) -> None:
    assert equal_in_base(answer, reference) is same
