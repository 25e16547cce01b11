"""What the names in braces stand for, in the commands and other texts of a pipeline's YAML."""

import json
import re
import shlex
from collections.abc import Mapping
from typing import Any

PLACE = re.compile(r"\{([A-Za-z][\w-]*)\}")
EVERY = re.compile(r"\{all:([^{}]*)\}")


class Names:
    """Names known at one point of the YAML, and the faults of the texts that use them.

    Args:
        places: What the first names stand for; stages add theirs, and rounds ``round``.
    """

    def __init__(self, places: dict[str, str]) -> None:
        self.places = places
        self.faults: list[str] = []
        self._carried: dict[str, str] = {}  # by first and next
        self._lacks: dict[str, str] = {}  # by name, why it stands for nothing
        self._every: dict[str, list[str]] = {}

    def place(self, name: str, folder: str) -> None:
        """A stage follows, which may name its own folder."""
        self.places[name] = folder
        self._lacks.pop(name, None)

    def made(self, name: str, step: str, skipped: bool, in_round: bool) -> None:
        """The stage is behind us, perhaps without its folder."""
        if skipped:
            self._lacks[name] = f"{step}, which is skipped"
        if in_round:
            self._every.setdefault(name, []).extend([] if skipped else [self.places[name]])

    def carry(self, texts: Mapping[str, str], where: str, begin: bool = False) -> None:
        """What ``first`` (``begin``) or ``next`` makes of names; what lacks keeps what it was."""
        filled = {name: self.fill(text, where) for name, text in texts.items()}
        lacks = {name: lack for name, text in texts.items() if (lack := self.lack(text))}
        if begin:
            self._lacks |= lacks
            lacks = {}
        for name in filled.keys() - lacks:
            self._carried[name] = filled[name]
            if not begin:
                self._lacks.pop(name, None)

    def lack(self, text: str) -> str:
        """What of that which a text names there is not, as a phrase; or nothing."""
        nothing = [
            f"{{all:{name}}}, of which there is none"
            for name in EVERY.findall(text)
            if not self._every.get(name)
        ]
        skipped = [self._lacks[name] for name in PLACE.findall(text) if name in self._lacks]
        return next(iter(skipped + nothing), "")

    def words(self, text: Any, where: str, meant: str, stage: str) -> tuple[str, ...]:
        """The words of a command line, which must be ``meant``; {stage} stands for ``stage``."""
        try:
            words = shlex.split(text) if isinstance(text, str) else []
        except ValueError as error:
            self.faults.append(f"{where}: {error}")
            return ()
        if not words:
            self.faults.append(f"{where}: must be {meant}")
        filled: list[str] = []
        for word in words:
            if EVERY.search(word):
                of_option = bool(filled) and filled[-1].startswith("--") and "=" not in filled[-1]
                filled += self._fill_every(word, where, stage, of_option)
            else:
                filled.append(self.fill(word, where, stage))
        return tuple(filled)

    def _fill_every(self, word: str, where: str, stage: str, of_option: bool) -> list[str]:
        """The words for one with {all:NAME}: a list as a single one if it is an option's value."""
        option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
        name, *more = dict.fromkeys(EVERY.findall(value)) or [""]
        if more or name not in self._every:
            fault = f"{word} must name one stage of rounds that comes before it"
            self.faults.append(f"{where}: {fault}")
            return [word]
        parts = [self.fill(part, where, stage) for part in value.split(f"{{all:{name}}}")]
        texts = [folder.join(parts) for folder in self._every[name]]
        if not of_option and not equals:
            return texts
        return [f"{option}{equals}{json.dumps(texts, ensure_ascii=False)}"]

    def fill(self, text: str, where: str, stage: str = "") -> str:
        """The text with all names replaced; in a stage, {stage} stands for ``stage``."""
        known = {**self._carried, **self.places, **({"stage": stage} if stage else {})}
        if EVERY.search(text):
            self.faults.append(f"{where}: {{all:NAME}} can be a word of a command alone")

        def replace(match: re.Match[str]) -> str:
            if match[1] not in known:
                self.faults.append(
                    f"{where}: {match[0]} is neither here, root nor the name of this or an "
                    f"earlier stage; choose from {', '.join(known)}"
                )
            return known.get(match[1], match[0])

        return PLACE.sub(replace, text)
