"""``wdl evaluate`` in a process of its own, for callers that must go on whatever happens to it.

The process takes its memory along when it ends, on accelerators too, and touches neither the
random numbers nor the threads of its caller.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wdl.processes import environment_without_ranks


class EvaluationFailed(Exception):
    """The evaluation crashed or took too long; the message says which."""


def evaluate_apart(
    models: Mapping[str, str | Path], out: Path, options: Sequence[str], limit: float | None = None
) -> dict[str, Any]:
    """Run ``wdl evaluate`` and wait for it.

    Args:
        models: Label and folder of each model.
        out: Folder for the results.
        options: The other options of the command, such as ``--benchmarks gsm8k``.
        limit: Seconds after which it is ended, with everything that it has started.

    Returns:
        The contents of ``out/summary.json``. Models whose engine failed stand under ``failures``.

    Raises:
        EvaluationFailed: There is no summary, because the process crashed, was given wrong options
            or took too long. Its messages stand on the error stream.
    """
    labelled = ",".join(f"{label}={source}" for label, source in models.items())
    summary = out / "summary.json"
    before = _version(summary)
    process = subprocess.Popen(
        [sys.executable, "-m", "wdl", "evaluate", "--model", labelled, "--out", str(out), *options],
        env=environment_without_ranks(),
        start_new_session=True,
    )
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        raise EvaluationFailed(f"not done within {limit:g} s") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code and _version(summary) == before:
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise EvaluationFailed(reason)
    return json.loads(summary.read_text(encoding="utf-8"))


def _version(file: Path) -> int | None:
    """Tells a new file from the one of an earlier run."""
    return file.stat().st_mtime_ns if file.is_file() else None
