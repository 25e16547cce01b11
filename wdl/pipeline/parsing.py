"""What the stages' commands read, found by parsing them all before the first one runs.

Parsing imports torch, so it happens in a process of its own, ``python -m wdl.pipeline.parsing``:
command lines come in as JSON, and for each its inputs or its faults go out.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from wdl.errors import UserError


def parse(commands: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
    """Parse ``wdl`` command lines, without running anything.

    Args:
        commands: Words after ``wdl``.

    Returns:
        For each either ``inputs``, the files and folders that it reads by the option that names
        them, defaults and configuration files included, and ``folder``, where a fit writes to; or
        ``faults``, one line each.
    """
    child = subprocess.run(
        [sys.executable, "-m", "wdl.pipeline.parsing"],
        input=json.dumps(list(map(list, commands))),
        stdout=subprocess.PIPE,
        text=True,
    )
    if child.returncode:
        raise RuntimeError(f"parsing the stages' commands failed: exit code {child.returncode}")
    return json.loads(child.stdout.splitlines()[-1])


def _parse_here(words: list[str]) -> dict[str, Any]:
    from wdl.cli import FUNCTIONS, VERBS, function_parser

    verb, options = words[0], words[1:]
    if verb not in VERBS:
        return {"faults": [f"{verb}: there is no such verb; choose from {', '.join(VERBS)}"]}
    try:
        if verb in FUNCTIONS:
            config = function_parser(verb)[1].parse_args(options)
        else:
            config = _configuration(words)
    except UserError as error:
        return {"faults": error.lines()}
    except SystemExit:  # --help, --print_config
        return {"faults": [f"wdl {' '.join(words)} runs nothing; leave the stage out"]}
    folder = os.path.abspath(os.path.join(config.runs, config.name)) if verb == "fit" else None
    return {"inputs": dict(_paths("", config.as_dict())), "folder": folder}


def _configuration(words: list[str]) -> Any:
    from wdl.data.module import WeakDrivenDataModule
    from wdl.lightning_cli import Parser, WeakDrivenCLI
    from wdl.models.module import WeakDrivenModule

    class Configuration(WeakDrivenCLI):
        """Parses, and leaves it at that."""

        def _set_seed(self) -> None: ...
        def before_instantiate_classes(self) -> None: ...
        def instantiate_classes(self) -> None: ...
        def after_instantiate_classes(self) -> None: ...
        def _run_subcommand(self, subcommand: str) -> None: ...

    cli = Configuration(
        WeakDrivenModule,
        WeakDrivenDataModule,
        parser_class=Parser,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=words,
    )
    return cli.config[words[0]]


def _paths(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Values whose type is one of paths: those are the types derived from str."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(f"{name}.{key}" if name else key, inner)
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _paths(f"{name}.{position}", inner)
    elif isinstance(value, str) and type(value) is not str:
        yield name, value


if __name__ == "__main__":
    sys.argv[0] = "wdl"  # what messages call the program
    print(json.dumps([_parse_here(words) for words in json.load(sys.stdin)]))
