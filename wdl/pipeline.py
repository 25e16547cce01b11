"""``wdl pipeline``: run stages in order, each a command with a process and a folder of its own.

A stage that is done is skipped; one that was killed goes on from its last checkpoint; one whose
inputs changed runs again, and so do all after it.
"""

import hashlib
import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from wdl.checkpoints import newest_checkpoint
from wdl.errors import UserError
from wdl.files import write_json
from wdl.paths import InputPath


@dataclass(frozen=True)
class Stage:
    """One step of a pipeline.

    Args:
        name: Names the stage and its folder.
        command: A ``wdl`` command line without ``wdl``. {here} stands for the folder of the
            pipeline's YAML, {root} for that of the pipeline, {NAME} for that of stage NAME.
    """

    name: str
    command: str


def run_pipeline(here: InputPath, stages: list[Stage], root: str = "runs/pipeline") -> None:
    """Run the stages that are not done yet.

    Args:
        here: What {here} in a command stands for; ``.`` in a YAML is that YAML's folder.
        stages: What to run, in order.
        root: Folder of the pipeline; each stage gets a folder in it.
    """
    folder = Path(root).absolute()
    places = {"here": str(here), "root": str(folder)}
    commands: list[tuple[Path, list[str]]] = []
    for stage in stages:
        if stage.name in places:
            raise UserError(f"stages: the name {stage.name!r} is taken; choose another")
        places[stage.name] = str(folder / stage.name)
        commands.append((folder / stage.name, _words(stage, places)))
    inputs = ""
    for number, (stage_folder, words) in enumerate(commands, start=1):
        inputs = _digest(words, inputs)
        title = f"[{number}/{len(commands)}] {stage_folder.name}"
        if _record(stage_folder / "done.json") == inputs:
            print(f"{title}: done, skipped", flush=True)
            continue
        print(f"{title}: wdl {shlex.join(words)}", flush=True)
        _run(stage_folder, words, inputs)


def _words(stage: Stage, places: dict[str, str]) -> list[str]:
    try:
        return [word.format_map(places) for word in shlex.split(stage.command)]
    except KeyError as error:
        raise UserError(
            f"stages: the command of {stage.name!r} names {{{error.args[0]}}}, which is neither "
            f"here, root nor an earlier stage"
        ) from None


def _run(folder: Path, words: list[str], inputs: str) -> None:
    if folder.exists() and _record(folder / "started.json") != inputs:
        folder.rename(_unused(folder))
    write_json(folder / "started.json", {"inputs": inputs})
    began = time.time()
    child = subprocess.run([sys.executable, "-m", "wdl", *words, *_resume(folder, words)])
    if child.returncode:
        raise UserError(
            f"stage {folder.name} failed with exit code {child.returncode}; its messages stand "
            "above, and the same command goes on from here"
        )
    write_json(folder / "done.json", {"inputs": inputs, "seconds": round(time.time() - began, 1)})


def _resume(folder: Path, words: list[str]) -> list[str]:
    """Options that let a half-done fit go on from its newest checkpoint."""
    checkpoint = newest_checkpoint(folder)
    return ["--ckpt_path", str(checkpoint)] if words[0] == "fit" and checkpoint else []


def _digest(words: list[str], before: str) -> str:
    """What a stage depends on: its command, the files that it names, and the stages before."""
    digest = hashlib.sha256(before.encode())
    for word in words:
        digest.update(f"{word}\0".encode())
        if Path(word).is_file():
            digest.update(Path(word).read_bytes())
    return digest.hexdigest()


def _record(file: Path) -> str | None:
    return json.loads(file.read_text())["inputs"] if file.is_file() else None


def _unused(folder: Path) -> Path:
    number = 1
    while (candidate := folder.with_name(f"{folder.name}.superseded-{number}")).exists():
        number += 1
    return candidate
