"""What a verb leaves for whoever started it: how much it did, and what came of it.

    {"amounts": {"tokens": 81920, "steps": 200}, "metrics": {"val/loss": 0.41}}

``wdl pipeline`` names a file to each stage, by an environment variable. Where nobody asks, nothing
is left.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from wdl.system.files import write_json

VARIABLE = "WDL_OUTCOME"
Numbers = Mapping[str, float]


def leave_outcome(amounts: Numbers, metrics: Numbers | None = None) -> None:
    """Write both to the file that was asked for, if any. Called by one process.

    Args:
        amounts: How much was done, by unit: tokens, steps, answers, samples.
        metrics: Numbers by name.
    """
    if file := os.environ.get(VARIABLE):
        write_json(Path(file), {"amounts": dict(amounts), "metrics": dict(metrics or {})})


def read_outcome(file: Path) -> tuple[Numbers, Numbers]:
    """Amounts and metrics; none where nothing was left."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found.get("amounts", {}), found.get("metrics", {})
