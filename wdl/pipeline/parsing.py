"""What the stages' commands read, found by parsing them all before the first one runs.

Parsing imports torch, so it happens in a process of its own, ``python -m wdl --parse``, which
knows the verbs: command lines go in as JSON, and for each its inputs or its faults come out.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any


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
        [sys.executable, "-m", "wdl", "--parse"],
        input=json.dumps(list(map(list, commands))),
        stdout=subprocess.PIPE,
        text=True,
    )
    if child.returncode:
        raise RuntimeError(f"parsing the stages' commands failed: exit code {child.returncode}")
    return json.loads(child.stdout.splitlines()[-1])
