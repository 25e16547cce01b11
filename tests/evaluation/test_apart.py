"""An evaluation in a process of its own, as a callback runs it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import ended, killed_at_the_end, wait_for

from wdl.evaluation.apart import EvaluationFailed, evaluate_apart


@pytest.fixture
def options(write_rows: Callable[..., Path]) -> list[str]:
    file = write_rows([{"instruction": "1+1?", "answer": "2"}], "sums.jsonl")
    return ["--benchmarks", "arithmetic", "--data", str(file), "--protocol", "quick"]


def test_gives_the_summary(
    pair: tuple[Path, Path], options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    summary = evaluate_apart({"strong": pair[0]}, Path("out"), options)
    assert summary == json.loads(Path("out/summary.json").read_text())
    assert summary["models"]["strong"]["arithmetic"]["results"]["answers"] == 1


@pytest.mark.parametrize(
    ("stop", "reason"),
    [({"limit": 1}, "not done within 1 s"), ({"cancelled": Path("pulse").exists}, "cancelled")],
)
def test_an_evaluation_that_hangs_costs_its_limit(
    stop: dict[str, Any], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has started ends with it."""
    sleeper = tmp_path / "python"
    pulse = tmp_path / "pulse"
    sleeper.write_text(f"#!/bin/sh\n(while :; do echo x >> {pulse}; sleep 0.1; done) &\nwait\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    began = time.monotonic()
    with pytest.raises(EvaluationFailed, match=reason):
        evaluate_apart({"strong": "x"}, Path("out"), [], **stop)
    assert time.monotonic() - began < 30
    stopped = pulse.stat().st_size
    time.sleep(0.5)
    assert pulse.stat().st_size == stopped > 0


def test_a_mistake_is_a_failure_even_where_an_older_summary_lies(
    pair: tuple[Path, Path], options: list[str]
) -> None:
    Path("out").mkdir()
    Path("out/summary.json").write_text("{}")
    with pytest.raises(EvaluationFailed, match="exit code 2"):
        evaluate_apart({"strong": pair[0]}, Path("out"), [*options, "--protocol", "none"])


def test_it_ends_with_its_caller(pair: tuple[Path, Path], write_rows: Callable[..., Path]) -> None:
    rows = [{"instruction": f"{n}+1?", "answer": str(n + 1)} for n in range(5000)]
    options = ["--benchmarks", "arithmetic", "--data", str(write_rows(rows))]
    arguments = f"{{'strong': {str(pair[0])!r}}}, Path('out'), {[*options, '--protocol', 'quick']}"
    code = (
        f"from pathlib import Path; from wdl.evaluation.apart import *; evaluate_apart({arguments})"
    )
    with killed_at_the_end([caller := subprocess.Popen([sys.executable, "-c", code])]):
        wait_for(Path("out/strong/arithmetic.journal.jsonl").is_file, seconds=120)
        (evaluation,) = Path(f"/proc/{caller.pid}/task/{caller.pid}/children").read_text().split()
        assert not ended(int(evaluation))
        caller.kill()
        wait_for(lambda: ended(int(evaluation)))
