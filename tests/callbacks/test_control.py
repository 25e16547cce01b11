"""The control of a run whose weak branch is narrower than the strong one, which it lacks."""

import json
import subprocess
import sys
from pathlib import Path

from conftest import CONFIGS


def test_it_trains_without_a_weak_branch_of_any_dtype(sums: Path, pair: tuple[Path, Path]) -> None:
    settings = {
        "model.strong": pair[0],
        "model.weak": pair[1],
        "model.train_weak": "false",
        "model.weak_dtype": "bfloat16",
        "data.path": sums,
        "data.selection.weights": "uniform",
        "trainer.max_epochs": 1,
        "evaluation.benchmark": "null",
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "wdl", "fit", "--config", str(CONFIGS / "joint.yaml")]
    child = subprocess.run([*command, *options], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr[-3000:]
    results = json.loads(Path("runs/joint/latest/results.json").read_text())
    assert set(results["tokens"]) == {"strong_after", "sft_control"}
