"""One way of writing, for what looks different and says the same."""

import pytest

from wdl.grading.notation import plain


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("½", r"\frac{1}{2}"),
        ("2½", r"2\frac{1}{2}"),
        ("x²", "x^{2}"),
        ("x⁻¹²", "x^{-12}"),
        ("x₁", "x_{1}"),
        ("−5", "-5"),
        ("–5", "-5"),
        ("3–5", "3–5"),
        ("12\u202f500", "12 500"),
        (r"\(11,\!080\)", "11,080"),
        (r"$\$5.$", "5"),
        ("**31**", "31"),
        ("3**2", "3**2"),
        (r"2\sqrt{7}.", r"2\sqrt{7}"),
        (r"\text{Monday.}", r"\text{Monday}"),
        (r"\left( 3,\;4 \right)", "( 3, 4 )"),
        (r"a \leftarrow b", r"a \leftarrow b"),
    ],
)
def test_writes_plainly(text: str, expected: str) -> None:
    assert plain(text) == expected
    assert plain(expected) == expected
