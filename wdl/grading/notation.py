r"""One way of writing: an answer without what changes how it looks and not what it says.

Typography (½, x², –, narrow spaces), the delimiters of formulas, bold and full stops go; what is
left is plain text or LaTeX.
"""

import re
import unicodedata

BOLD = re.compile(r"(?<![\w*])\*\*(?=\S)(.{1,300}?)(?<=\S)\*\*(?![\w*])")
WRAPPERS = re.compile(
    r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mathit|boldsymbol|bm|mbox)\s*\{([^{}]*)\}"
)
_SYMBOLS = {
    **dict.fromkeys("−‐‑﹣－", "-"),
    **{"∞": r"\infty ", "π": r"\pi ", "×": r"\times ", "÷": r"\div ", "±": r"\pm "},
    **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset "},
    **{"∈": r"\in ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "λ": r"\lambda "},
    **dict.fromkeys("·⋅∙", r"\cdot "),
    **{"≈": r"\approx ", "º": "°"},
}
_TYPOGRAPHY = str.maketrans(_SYMBOLS)
_FRACTION = re.compile("[¼-¾⅐-⅞]")
_RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻ⁿⁱ]+")
_LOWERED = re.compile("[₀-₉₊₋]+")
_LONG_DASH = re.compile(r"(?<!\d)[–—]|[–—](?!\d)")  # 3–5 is a range
_SPACES = re.compile(r"\\[,;: ]|~|\\q?quad\b|\\(?:left|right|displaystyle)(?![a-zA-Z])")
_DELIMITERS = re.compile(r"(?<!\\)\\[()\[\]]|\\?\$")
_STOP_INSIDE = re.compile(r"[.,;:](\}+)$")


def plain(text: str) -> str:
    """The text in the one way of writing; what is written so already stays as it is."""
    text = _FRACTION.sub(lambda match: rf"\frac{{{_digits(match[0], '⁄', '}{')}}}", text)
    text = _RAISED.sub(lambda match: f"^{{{_digits(match[0], '−', '-')}}}", text)
    text = _LOWERED.sub(lambda match: f"_{{{_digits(match[0], '−', '-')}}}", text)
    text = unicodedata.normalize("NFKC", text.translate(_TYPOGRAPHY))
    text = _LONG_DASH.sub("-", text).replace("\\!", "")
    text = BOLD.sub(r"\1", _DELIMITERS.sub("", _SPACES.sub(" ", text)))
    text = " ".join(text.split()).strip(" *`").removeprefix("=")
    return _STOP_INSIDE.sub(r"\1", text.rstrip(" .,;:\\*`")).strip()


def _digits(characters: str, old: str, new: str) -> str:
    return unicodedata.normalize("NFKC", characters).replace(old, new)
