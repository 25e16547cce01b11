"""What a step depends on, by content: its command, what it reads, and the steps before it.

Neither touching a file nor moving the pipeline counts as a change. Contents are read once: like
git's index, a memory of sizes and times of change says which hash still holds.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wdl
from wdl.config.packaged import find_config
from wdl.errors import UserError
from wdl.pipeline.stages import Step
from wdl.system.digests import content_digest, value_digest
from wdl.system.files import write_json

# A file that changed this short a time ago may change again without a new time of change.
SETTLED = 2e9
COMMANDS = 1000
"""So many parsed commands are remembered, the last ones."""
ROWS = (".jsonl", ".parquet")
"""Files that are no configurations; stages write them, and need not be parsed again for that."""
Inputs = dict[str, str]


class Fingerprints:
    """Hashes of contents, and what the stages' commands read; ``memory`` is a file of both."""

    def __init__(self, memory: Path) -> None:
        self._file = memory
        known = json.loads(memory.read_text()) if memory.is_file() else {}
        self._hashes: dict[str, list] = known.get("files", {})
        self._commands: dict[str, dict[str, Any]] = known.get("commands", {})

    def save(self) -> None:
        """Remember what is known now, if there is a place for it."""
        if self._file.parent.is_dir():
            commands = dict(list(self._commands.items())[-COMMANDS:])
            write_json(self._file, {"files": self._hashes, "commands": commands})

    def of(self, path: Path) -> str:
        """SHA-256 of a file, or of the names and contents of all files in a folder."""
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file())
            parts = [f"{file.relative_to(path)}\0{self._of_file(file)}" for file in files]
            return hashlib.sha256("\n".join(parts).encode()).hexdigest()
        return self._of_file(path)

    def _of_file(self, file: Path) -> str:
        state = file.stat()
        seen = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        known = self._hashes.get(str(file))
        if known is not None and known[:-1] == seen:
            return known[-1]
        content = content_digest(file)
        self._hashes.pop(str(file), None)
        if time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > SETTLED:
            self._hashes[str(file)] = [*seen, content]
        return content

    def read_by(self, steps: Sequence[Step], root: Path) -> list[Inputs]:
        """What each step's command reads, by option; parses those that are not known yet.

        Raises:
            UserError: Everything that is wrong with the commands.
        """
        keys = [self._command_key(step.words) for step in steps]
        new = [number for number, key in enumerate(keys) if key not in self._commands]
        faults = []
        parsed_steps = parse([steps[number].words for number in new]) if new else []
        for number, parsed in zip(new, parsed_steps, strict=True):
            faults += [f"stage {steps[number].name}: {line}" for line in parsed.get("faults", [])]
            self._commands[keys[number]] = parsed
        found = {key: self._commands[key] for key in keys}
        faults += [
            f"stage {step.name}: it would write to {folder}, where it is neither found again nor "
            "set aside when its inputs change; give --runs {root} --name {stage}"
            for step, key in zip(steps, keys, strict=True)
            if (folder := found[key].get("folder")) not in (None, str(root / step.name))
        ]
        if faults:
            raise UserError(*faults)
        self._commands = {
            key: value for key, value in self._commands.items() if key not in found
        } | found
        return [found[key]["inputs"] for key in keys]

    def addresses(self, step: Step) -> dict[str, str]:
        """Addresses of the web in a command that is known, by option."""
        return self._commands[self._command_key(step.words)].get("addresses", {})

    def _command_key(self, words: Sequence[str]) -> str:
        """Words and the files that they name, among them configurations."""
        named = [
            self._of_file(file)
            for file in candidates(words)
            if file.is_file() and file.suffix not in ROWS
        ]
        return value_digest([wdl.__version__, os.getcwd(), *words, *named])


@dataclass(frozen=True)
class StepInputs:
    """Digests of the inputs of a pipeline's steps, of which each ``reads`` files by option."""

    steps: Sequence[Step]
    here: Path
    root: Path
    fingerprints: Fingerprints
    reads: Sequence[Inputs]

    def check(self) -> None:
        """Look for what no step will have written.

        Raises:
            UserError: A file or folder is not there; one line for each.
        """
        missing = {  # one option may follow from another
            (step.name, path): option
            for number, step in enumerate(self.steps)
            for option, value in reversed(self.reads[number].items())
            for path in candidates([value])
            if path.is_absolute() and not path.exists() and not self._made_before(path, number)
        }
        faults = [
            f"stage {name}: {option}: there is no {path}, and no earlier stage writes it"
            for (name, path), option in missing.items()
        ]
        if faults:
            raise UserError(*faults)

    def digest(self, number: int, before: str) -> str:
        """Of the step at a position; ``before`` is the identity of the run of the one before it."""
        step = self.steps[number]
        content = [
            f"{option}\0{self.fingerprints.of(path)}"
            for option, value in sorted(self.reads[number].items())
            for path in candidates([value])
            if self._counts(path, number)
        ]
        content += [
            self.fingerprints.of(path)
            for path in candidates(step.words)
            if (path.is_file() or self._made_before(path, number)) and self._counts(path, number)
        ]
        self.fingerprints.save()
        return value_digest([wdl.__version__, before, *map(self._anywhere, step.words), *content])

    def _counts(self, path: Path, number: int) -> bool:
        """Outputs do not: what lies in the pipeline's folder, but in no earlier step's."""
        inside = path.absolute().is_relative_to(self.root)
        return path.exists() and (not inside or self._made_before(path, number))

    def _made_before(self, path: Path, number: int) -> bool:
        folders = [self.root / step.name for step in self.steps[:number] if not step.skip]
        return any(path.absolute().is_relative_to(folder) for folder in folders)

    def _anywhere(self, word: str) -> str:
        """The word as it would be wherever the pipeline and its YAML stood."""
        # longest first: one may lie within the other
        places = sorted({str(self.here), str(self.root)}, key=len, reverse=True)
        for number, place in enumerate(places):
            word = word.replace(place, f"{{{number}}}")
        return word


def parse(commands: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Parse command lines without ``wdl``; in a process of its own, since that imports torch.

    Returns:
        For each either ``inputs``, the files and folders that it reads by the option that names
        them, defaults and configuration files included, ``addresses`` of the web in the same way,
        and ``folder``, where a fit writes to; or ``faults``, one line each.
    """
    child = subprocess.run(
        [sys.executable, "-m", "wdl", "--parse"],
        input=json.dumps(list(map(list, commands))),
        stdout=subprocess.PIPE,
        text=True,
    )
    if child.returncode:
        raise RuntimeError(f"parsing the stages' commands failed: exit code {child.returncode}")
    return json.loads(child.stdout.splitlines()[-1])


def candidates(texts: Sequence[str]) -> Iterator[Path]:
    """What may be a path: a text, or in NAME=PATH,NAME=PATH each of its parts."""
    for text in texts:
        for part in re.split("[,=]", text):
            if part:
                yield find_config(Path(part))
