"""The ``stages:`` of a pipeline's YAML, checked and written out: one step for each round.

    - name: sft                             a stage
      command: fit --name {stage} ...
      retries: 1                            more attempts after a crash; 0 by default, or
      retries: {count: 2, wait: 30}         with so many seconds before each
      on_failure: skip                      and after the last go on without it; stop by default
      environment: {NAME: "text"}           variables of its process, on top of the pipeline's
      launcher: torchrun --nproc_per_node 2 -m    stands before ``wdl fit ...``; none by default

    - rounds: 4                             stages that are repeated; folders grade-1, grade-2, ...
      first: {model: "{here}/model"}
      next:  {model: "{train}/latest/strong"}
      stages:
        - name: grade
          command: evaluate --model {model} --out {grade} ...
        - name: train
          from_round: 3                     skipped in the rounds before
          command: fit --name {stage} --model.strong {model} --data.path {all:grade}/rows.jsonl ...

A command may name {here}, the folder of the YAML; {root}, that of the pipeline; {stage}, itself;
{NAME}, the folder of an earlier stage, or its own; and in a group {round}, which counts from 1, and
the group's own names. These hold what ``first`` says in the first round, and then what ``next``
makes of those of the round before. After a group, {NAME} is the folder of its last round, and the
group's own names hold what one more round would get.

{all:NAME} is the folder of an earlier stage in each of the rounds so far that did not skip it. The
value of an option with it becomes a list, ["…/grade-1/rows.jsonl", "…/grade-2/rows.jsonl"]; where
no option comes before, it becomes several words.

A stage is skipped before its ``from_round``, when its command names one that is skipped, and for
good when it has failed and ``on_failure`` says so. A group's own name keeps what it holds when
``next`` makes it of a stage that was skipped.

A launcher, in which the same names stand for the same, starts the stage elsewhere or as several
processes: ``srun --ntasks 8``, ``sbatch --wait {here}/job.sh``. Its exit code is the stage's, and
the signals of the pipeline go to it: torchrun and srun hand them on; a script does if it ends in
``exec "$@"``; what sbatch has queued goes on without it. Neither launcher nor environment, retries
and on_failure count as a change.
"""

import re
import shlex
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wdl.errors import UserError
from wdl.pipeline.names import Names
from wdl.pipeline.stage_keys import NEEDED, read_keys

NAME = re.compile(r"[A-Za-z][\w-]*")
RESERVED = ("here", "root", "stage", "round")
STAGE_KEYS = {*NEEDED, "retries", "launcher", "from_round", "on_failure", "environment"}
GROUP_KEYS = {"rounds", "first", "next", "stages"}
WORDS = {
    "command": "a wdl command line, without wdl",
    "launcher": "a program and its options, which stand before wdl",
}


@dataclass(frozen=True)
class Round:
    """One round of the ``group``-th item in the YAML, which has ``count`` of them."""

    group: int
    number: int
    count: int

    def __str__(self) -> str:
        return f"round {self.number} of {self.count}"


@dataclass(frozen=True)
class Step:
    """One stage of one round, all names replaced; ``words`` are what follows ``wdl``.

    ``wait`` is in seconds. ``skip`` is why it is not run at all, if it is not; ``skippable`` says
    that the pipeline goes on when it fails.
    """

    name: str
    words: tuple[str, ...]
    retries: int = 0
    launcher: tuple[str, ...] = ()
    wait: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)
    round: Round | None = None
    skip: str = ""
    skippable: bool = False

    @property
    def stage(self) -> str:
        """Its name without the round."""
        return self.name.removesuffix(f"-{self.round.number}") if self.round else self.name

    def shown(self, words: Sequence[str]) -> str:
        """The command with these words, as one would type it."""
        variables = (f"{name}={shlex.quote(value)}" for name, value in self.environment.items())
        return " ".join((*variables, shlex.join([*self.launcher, "wdl", *words])))


def expand(
    stages: Sequence[Any], here: Path, root: Path, failed: Set[str] = frozenset()
) -> list[Step]:
    """The steps that the YAML's ``stages`` stand for, in order.

    Their number, order and names do not depend on those that have ``failed`` and are done without.

    Raises:
        UserError: Everything that is wrong with them, one line each.
    """
    expansion = _Expansion(here, root, failed)
    for number, item in enumerate(stages, start=1):
        expansion.add(item, number)
    if not expansion.steps and not expansion.faults:
        expansion.faults.append("stages: there is none; give at least one")
    if expansion.faults:
        raise UserError(*dict.fromkeys(expansion.faults))  # a fault in every round is one fault
    return expansion.steps


class _Expansion:
    """Steps and faults so far, and what the names stand for at this point."""

    def __init__(self, here: Path, root: Path, failed: Set[str]) -> None:
        self.root = root
        self.failed = failed
        self.names = Names({"here": str(here), "root": str(root)})
        self.own: Set[str] = frozenset()  # names that the group at hand carries from round to round
        self.steps: list[Step] = []
        self.faults = self.names.faults

    def add(self, item: Any, number: int) -> None:
        """A stage or a group of them."""
        where = f"stages, item {number}"
        if isinstance(item, dict) and GROUP_KEYS & item.keys():
            self._add_group(item, where, number)
        else:
            self._add_stage(item, where)

    def _add_group(self, group: dict[str, Any], where: str, position: int) -> None:
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
        elif taken := [name for name in first if name in self.names.places or not _usable(name)]:
            self.faults.append(f"{where}: first: {_refusal(taken[0])}")
        else:
            every = [Round(position, number, rounds) for number in range(1, rounds + 1)]
            self._add_rounds(every, first, following, group["stages"], where)

    def _add_rounds(
        self,
        rounds: Sequence[Round],
        first: dict[str, str],
        following: dict[str, str],
        stages: Any,
        where: str,
    ) -> None:
        names = self.names
        names.carry(first, f"{where}: first", begin=True)
        self.own = first.keys()
        outside = names.places
        for one in rounds:
            names.places = outside | {"round": str(one.number)}
            for position, stage in enumerate(stages, start=1):
                self._add_stage(stage, f"{where}, stage {position}", one)
            # also after the last round, so that a fault shows with a single one
            names.carry(following, f"{where}: next")
        del names.places["round"]
        self.own = frozenset()

    def _add_stage(self, stage: Any, where: str, turn: Round | None = None) -> None:
        if not self._has_keys(stage, STAGE_KEYS, NEEDED, where):
            return
        name, names = stage["name"], self.names
        if not isinstance(name, str) or not _usable(name):
            self.faults.append(f"{where}: name: {_refusal(name)}")
            return
        where = f"stage {name}"
        full_name = f"{name}-{turn.number}" if turn else name
        taken = name in names.places or name in self.own
        if taken or any(step.name == full_name for step in self.steps):
            self.faults.append(f"{where}: name: {full_name} is there twice; choose another")
            return
        names.place(name, str(self.root / full_name))
        keys, faults = read_keys(stage, turn.count if turn else 0)
        if faults:
            self.faults += [f"{where}: {fault}" for fault in faults]
            return
        words, launcher = (
            names.words(stage[key], f"{where}: {key}", meant, full_name) if key in stage else ()
            for key, meant in WORDS.items()
        )
        keys["environment"] = {
            variable: names.fill(text, f"{where}: environment", full_name)
            for variable, text in keys["environment"].items()
        }
        begins = keys.pop("from_round")
        skip = f"it begins in round {begins}" if turn and turn.number < begins else ""
        if not skip and (lack := names.lack(str(stage["command"]))):
            skip = f"it needs {lack}"
        self.steps.append(Step(full_name, words, launcher=launcher, round=turn, skip=skip, **keys))
        names.made(name, full_name, bool(skip) or full_name in self.failed, turn is not None)

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


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _usable(name: Any) -> bool:
    return isinstance(name, str) and bool(NAME.fullmatch(name)) and name not in RESERVED


def _refusal(name: Any) -> str:
    return (
        f"{name!r} cannot be used; choose letters, digits, - and _, beginning with a letter, and "
        f"none of {', '.join(RESERVED)} and the names given before"
    )
