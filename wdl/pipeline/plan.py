"""What is to become of each step, in order, and why.

Running, ``--dry_run`` and ``status`` go through the same turns; the first also acts on them.
"""

from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from wdl.errors import UserError
from wdl.pipeline.inputs import Fingerprints, StepInputs
from wdl.pipeline.process import find_program
from wdl.pipeline.record import Record
from wdl.pipeline.stages import Step, expand

Digest = Callable[[int, str], str]
"""Inputs of the step at a position, given the identity of the run of the step before it."""
Plan = Callable[[Set[str]], tuple[Sequence[Step], Digest]]
"""The steps, given the names of those that failed and are done without."""


class Pipeline:
    """The plan of a YAML's ``stages``; commands are parsed when that is first needed.

    Args:
        stages: As in the YAML.
        here: What {here} stands for.
        root: Folder of the pipeline.

    Raises:
        UserError: Everything that is wrong with the stages, one line each.
    """

    def __init__(self, stages: Sequence[Any], here: Path, root: Path) -> None:
        self._stages = stages
        self._here = here
        self._root = root
        self._fingerprints = Fingerprints(root / ".fingerprints.json")
        self._inputs: dict[Set[str], StepInputs] = {}
        self.steps = expand(stages, here, root)

    def __call__(self, failed: Set[str]) -> tuple[Sequence[Step], Digest]:
        """The steps without those that ``failed``, and their inputs."""
        steps = expand(self._stages, self._here, self._root, failed) if failed else self.steps
        return steps, lambda number, before: self.inputs(failed).digest(number, before)

    def check(self) -> None:
        """Parse all commands, look for what they read and for what starts them.

        Raises:
            UserError: Everything that is wrong with them, one line each.
        """
        missing = [
            f"stage {step.name}: launcher: there is no program {step.launcher[0]}; correct or "
            "drop it"
            for step in self.steps
            if step.launcher and not find_program(step.launcher[0])
        ]
        if missing:
            raise UserError(*missing)
        self.inputs(frozenset()).check()

    def inputs(self, failed: Set[str]) -> StepInputs:
        """What the steps depend on without those that ``failed``."""
        if failed not in self._inputs:
            steps, _ = self(failed)
            to_run = [step for step in steps if not step.skip]
            names = [step.name for step in to_run]
            reads = dict(zip(names, self._fingerprints.read_by(to_run, self._root), strict=True))
            self._inputs[failed] = StepInputs(
                *(steps, self._here, self._root, self._fingerprints),
                [reads.get(step.name, {}) for step in steps],
            )
        return self._inputs[failed]


@dataclass(frozen=True)
class Turn:
    """A step, when all before it have had their turn: what is to become of it, and why.

    ``before`` is the identity of the run of the step before it, None where that is yet to run.
    """

    steps: Sequence[Step]
    number: int
    folder: Path
    record: Record | None
    before: str | None
    digest: Digest

    @property
    def step(self) -> Step:
        """The step itself."""
        return self.steps[self.number]

    @property
    def title(self) -> str:
        """Its place and name."""
        return f"[{self.number + 1}/{len(self.steps)}] {self.step.name}"

    @cached_property
    def inputs(self) -> str:
        """Digest of what the step depends on."""
        assert self.before is not None
        return self.digest(self.number, self.before)

    @cached_property
    def decision(self) -> tuple[Literal["keep", "skip", "run"], str]:
        """What to do, and why."""
        record = self.record
        if self.step.skip:
            return "skip", self.step.skip
        if record is None:
            return "run", "it has not run yet"
        if self.before is None:
            return "run", "a stage before it runs"
        if record.inputs != self.inputs:
            return "run", "its command, what it reads or a stage before it changed"
        if record.state in ("done", "skipped"):
            return "keep", record.reason or "done"
        endings = {"running": "it was killed", "stopped": "it was stopped"}
        return "run", endings.get(record.state, f"it failed with exit code {record.exit_code}")


def turns(plan: Plan, root: Path) -> Iterator[Turn]:
    """Each step in its turn; what is done with it in between decides on those after it."""
    failed: Set[str] = frozenset()
    before: str | None = ""
    steps, digest = plan(failed)
    for number in range(len(steps)):
        folder = root / steps[number].name
        turn = Turn(steps, number, folder, Record.read(folder), before, digest)
        yield turn
        if turn.step.skip:
            continue
        record = Record.read(folder)
        settled = record is not None and record.state in ("done", "skipped")
        just_ran = record != turn.record  # on inputs that may have been mended since
        if (
            record is None
            or before is None
            or not settled
            or not (just_ran or record.inputs == turn.inputs)
        ):
            before = None
            continue
        before = record.identity
        if record.state == "skipped":
            failed |= {turn.step.name}
            steps, digest = plan(failed)
