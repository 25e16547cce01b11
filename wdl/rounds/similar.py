"""Texts that say nearly the same, by the runs of words that they share."""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import chain

WORDS = 8
"""Length of a run: words, numbers and the marks that say something."""
SHARED = 0.5
"""Share of its runs that a text has in common with another that says nearly the same."""
_TOKEN = re.compile(r"\w+|[^\w\s]")
_SIGNS = {
    r"\\(?:times|cdot|ast)(?![a-z])|[×·⋅∗]|(?<=\d) *x *(?=\d)": "*",
    r"\\div(?![a-z])|÷": "/",
    "[−–]": "-",
}
"""Of arithmetic, which have several spellings."""
_SILENT = re.compile(r"[.,](?!\d)|[:;?$\"'`“”‘’…]|\\[()\[\]]|=\W*$")
"""Marks that say nothing; those within a number do."""
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")

Run = tuple[str, ...]


class Texts:
    """Texts, and whether one of them says nearly the same as another.

    A text shorter than a run is one run.

    Args:
        texts: To begin with.
        with_numbers: Whether two texts say the same only with the same numbers in the same order.
    """

    def __init__(self, texts: Iterable[str] = (), with_numbers: bool = False) -> None:
        self._with_numbers = with_numbers
        self._holders: dict[Run, list[int]] = {}
        self._size = 0
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Take in one more."""
        for run in self._runs(text):
            self._holders.setdefault(run, []).append(self._size)
        self._size += 1

    def __contains__(self, text: str) -> bool:
        runs = self._runs(text)
        shared = Counter(chain.from_iterable(self._holders.get(run, ()) for run in runs))
        return max(shared.values(), default=0) >= SHARED * len(runs)

    def _runs(self, text: str) -> set[Run]:
        numbers = tuple(_NUMBER.findall(text)) if self._with_numbers else ()
        text = text.casefold()
        for spellings, sign in _SIGNS.items():
            text = re.sub(spellings, sign, text)
        words = _TOKEN.findall(_SILENT.sub(" ", text))
        starts = range(max(1, len(words) - WORDS + 1))
        return {(*numbers, "", *words[start : start + WORDS]) for start in starts}
