"""An evaluation in a process of its own, as a callback runs it."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

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


def test_an_evaluation_that_hangs_costs_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has started ends with it."""
    sleeper = tmp_path / "python"
    pulse = tmp_path / "pulse"
    sleeper.write_text(f"#!/bin/sh\n(while :; do echo x >> {pulse}; sleep 0.1; done) &\nwait\n")
    sleeper.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    began = time.monotonic()
    with pytest.raises(EvaluationFailed, match="not done within 1 s"):
        evaluate_apart({"strong": "x"}, Path("out"), [], limit=1)
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
