"""``wdl evaluate`` in a process of its own, for callers that must go on whatever happens to it.

The process takes its memory along when it ends, on accelerators too, and touches neither the
random numbers nor the threads of its caller.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wdl.system.processes import environment_of_child

_PAUSE = 0.5  # seconds between two questions whether to go on


class EvaluationFailed(Exception):
    """The evaluation crashed or took too long; the message says which."""


def evaluate_apart(
    models: Mapping[str, str | Path],
    out: Path,
    options: Sequence[str],
    limit: float | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Run ``wdl evaluate`` and wait for it. It ends with this process, however that ends.

    After ``limit`` seconds, or when it is found ``cancelled``, it is ended with everything that it
    has started.

    Returns:
        The contents of ``out/summary.json``. Models whose engine failed stand under ``failures``.

    Raises:
        EvaluationFailed: There is no summary, because the process crashed, was given wrong
            options, took too long or was cancelled. Its messages stand on the error stream.
    """
    labelled = ",".join(f"{label}={source}" for label, source in models.items())
    summary = out / "summary.json"
    before = _version(summary)
    flags = ["--model", labelled, "--out", str(out), *options]
    process = subprocess.Popen(
        [sys.executable, "-m", "wdl", "evaluate", *flags],
        env=environment_of_child(),
        start_new_session=True,
    )
    try:
        code = _wait(process, limit, cancelled)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code and _version(summary) == before:
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise EvaluationFailed(reason)
    return json.loads(summary.read_text(encoding="utf-8"))


def _wait(process: subprocess.Popen, limit: float | None, cancelled: Callable[[], bool]) -> int:
    """Its exit code."""
    began = time.monotonic()
    while True:
        try:
            return process.wait(_PAUSE)
        except subprocess.TimeoutExpired:
            if cancelled():
                raise EvaluationFailed("cancelled") from None
            if limit is not None and time.monotonic() - began > limit:
                raise EvaluationFailed(f"not done within {limit:g} s") from None


def _version(file: Path) -> int | None:
    """Tells a new file from the one of an earlier run."""
    return file.stat().st_mtime_ns if file.is_file() else None
