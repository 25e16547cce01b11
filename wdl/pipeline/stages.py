"""The ``stages:`` of a pipeline's YAML, checked and written out: one step for each round.

    - name: sft                             a stage
      command: fit --name {stage} ...
      retries: 1                            more attempts after a crash; 0 by default
      launcher: torchrun --nproc_per_node 2 -m    stands before ``wdl fit ...``; none by default

    - rounds: 2                             stages that are repeated; folders joint-1, joint-2
      first: {weak: "{base}/latest/strong", strong: "{sft}/latest/strong"}
      next:  {weak: "{strong}", strong: "{joint}/latest/strong"}
      stages:
        - name: joint
          command: fit --name {stage} --model.weak {weak} --model.strong {strong} ...

A command may name {here}, the folder of the YAML; {root}, that of the pipeline; {stage}, itself;
{NAME}, the folder of an earlier stage, or its own; and in a group {round}, which counts from 1, and
the group's own names. These hold what ``first`` says in the first round, and then what ``next``
makes of those of the round before. After a group, {NAME} is the folder of its last round.

A launcher, in which the same names stand for the same, starts the stage elsewhere or as several
processes: ``srun --ntasks 8``, ``sbatch --wait {here}/job.sh``. It does not count as a change. Its
exit code is the stage's, and the signals of the pipeline go to it: torchrun and srun hand them on;
a script does if it ends in ``exec "$@"``; what sbatch has queued goes on without it.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wdl.errors import UserError

NAME = re.compile(r"[A-Za-z][\w-]*")
PLACE = re.compile(r"\{([A-Za-z][\w-]*)\}")
RESERVED = ("here", "root", "stage", "round")
STAGE_KEYS = {"name", "command", "retries", "launcher"}
GROUP_KEYS = {"rounds", "first", "next", "stages"}
WORDS = {
    "command": "a wdl command line, without wdl",
    "launcher": "a program and its options, which stand before wdl",
}


@dataclass(frozen=True)
class Step:
    """One stage of one round, all names replaced; ``words`` are what follows ``wdl``."""

    name: str
    words: tuple[str, ...]
    retries: int = 0
    launcher: tuple[str, ...] = ()


def expand(stages: list[Any], here: Path, root: Path) -> list[Step]:
    """The steps that the YAML's ``stages`` stand for, in order.

    Raises:
        UserError: Everything that is wrong with them, one line each.
    """
    expansion = _Expansion(here, root)
    for number, item in enumerate(stages, start=1):
        expansion.add(item, f"stages, item {number}")
    if not expansion.steps and not expansion.faults:
        expansion.faults.append("stages: there is none; give at least one")
    if expansion.faults:
        raise UserError(*dict.fromkeys(expansion.faults))  # a fault in every round is one fault
    return expansion.steps


class _Expansion:
    """Steps and faults so far, and what the names stand for at this point."""

    def __init__(self, here: Path, root: Path) -> None:
        self.root = root
        self.places = {"here": str(here), "root": str(root)}
        self.steps: list[Step] = []
        self.faults: list[str] = []

    def add(self, item: Any, where: str) -> None:
        """A stage or a group of them."""
        if isinstance(item, dict) and GROUP_KEYS & item.keys():
            self._add_group(item, where)
        else:
            self._add_stage(item, where)

    def _add_group(self, group: dict[str, Any], where: str) -> None:
        first, following = group.get("first", {}), group.get("next", {})
        if not self._has_keys(group, GROUP_KEYS, {"rounds", "stages"}, where):
            return
        rounds = group["rounds"]
        if type(rounds) is not int or rounds < 1:
            self.faults.append(f"{where}: rounds: {rounds!r} must be a number from 1 up")
        elif not isinstance(group["stages"], list) or not group["stages"]:
            self.faults.append(f"{where}: stages: must be a list of stages")
        elif not _texts(first) or not _texts(following) or first.keys() != following.keys():
            self.faults.append(f"{where}: first and next: both must give the same names a text")
        elif taken := [name for name in first if name in self.places or not _usable(name)]:
            self.faults.append(f"{where}: first: {_refusal(taken[0])}")
        else:
            self._add_rounds(rounds, first, following, group["stages"], where)

    def _add_rounds(
        self, rounds: int, first: dict[str, str], following: dict[str, str], stages: Any, where: str
    ) -> None:
        carried = {name: self._fill(text, f"{where}: first") for name, text in first.items()}
        outside = self.places
        for number in range(1, rounds + 1):
            self.places = outside | carried | {"round": str(number)}
            for position, stage in enumerate(stages, start=1):
                self._add_stage(stage, f"{where}, stage {position}", f"-{number}")
            # also after the last round, so that a fault shows with a single one
            carried = {name: self._fill(text, f"{where}: next") for name, text in following.items()}
        made = {name: place for name, place in self.places.items() if name not in carried}
        self.places = {name: place for name, place in made.items() if name != "round"}

    def _add_stage(self, stage: Any, where: str, suffix: str = "") -> None:
        if not self._has_keys(stage, STAGE_KEYS, {"name", "command"}, where):
            return
        name, retries = stage["name"], stage.get("retries", 0)
        if not isinstance(name, str) or not _usable(name):
            self.faults.append(f"{where}: name: {_refusal(name)}")
            return
        where = f"stage {name}"
        full_name = name + suffix
        if name in self.places or any(step.name == full_name for step in self.steps):
            self.faults.append(f"{where}: name: {full_name} is there twice; choose another")
            return
        self.places[name] = str(self.root / full_name)
        if type(retries) is not int or retries < 0:
            self.faults.append(f"{where}: retries: {retries!r} must be a number from 0 up")
            return
        places = {**self.places, "stage": full_name}
        words, launcher = (
            self._words(stage[key], key, where, places) if key in stage else () for key in WORDS
        )
        self.steps.append(Step(full_name, words, retries, launcher))

    def _words(self, text: Any, key: str, where: str, places: dict[str, str]) -> tuple[str, ...]:
        where = f"{where}: {key}"
        try:
            words = shlex.split(text) if isinstance(text, str) else []
        except ValueError as error:
            self.faults.append(f"{where}: {error}")
            return ()
        if not words:
            self.faults.append(f"{where}: must be {WORDS[key]}")
        return tuple(self._fill(word, where, places) for word in words)

    def _has_keys(self, item: Any, known: set[str], needed: set[str], where: str) -> bool:
        keys = ", ".join(sorted(known))
        if not isinstance(item, dict):
            self.faults.append(f"{where}: {item!r} is no stage; it has the keys {keys}")
            return False
        label = f"stage {item['name']}" if isinstance(item.get("name"), str) else where
        unknown, missing = sorted(map(str, item.keys() - known)), sorted(needed - item.keys())
        self.faults += [f"{label}: there is no key {key}; choose from {keys}" for key in unknown]
        if not unknown:  # or it is the one that is misspelt
            self.faults += [f"{label}: the key {key} is missing" for key in missing]
        return not unknown and not missing

    def _fill(self, text: str, where: str, places: dict[str, str] | None = None) -> str:
        known = self.places if places is None else places

        def replace(match: re.Match[str]) -> str:
            if match[1] not in known:
                self.faults.append(
                    f"{where}: {match[0]} is neither here, root nor the name of this or an "
                    f"earlier stage; choose from {', '.join(known)}"
                )
            return known.get(match[1], match[0])

        return PLACE.sub(replace, text)


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _usable(name: Any) -> bool:
    return isinstance(name, str) and bool(NAME.fullmatch(name)) and name not in RESERVED


def _refusal(name: Any) -> str:
    return (
        f"{name!r} cannot be used; choose letters, digits, - and _, beginning with a letter, and "
        f"none of {', '.join(RESERVED)} and the names given before"
    )
