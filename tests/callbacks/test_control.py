"""Controls: of a pair whose weak branch is narrower, which they lack, and of preferences."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CONFIGS
from wdl.callbacks.evaluation import Evaluation

from wdl.config.paths import InputPath, ModelSource
from wdl.errors import UserError


def run(config: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The results of a fit."""
    given = {**settings, "evaluation.benchmark": "null"}
    options = [f"--{name}={value}" for name, value in given.items()]
    command = [sys.executable, "-m", "wdl", "fit", "--config", str(CONFIGS / config)]
    child = subprocess.run([*command, *options], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr[-3000:]
    return json.loads(Path(f"runs/{Path(config).stem}/latest/results.json").read_text())


def test_it_trains_without_a_weak_branch_of_any_dtype(sums: Path, pair: tuple[Path, Path]) -> None:
    settings = {
        "model.strong": pair[0],
        "model.weak": pair[1],
        "model.train_weak": "false",
        "model.weak_dtype": "bfloat16",
        "data.path": sums,
        "data.selection.weights": "uniform",
        "trainer.max_epochs": 1,
    }
    assert set(run("joint.yaml", settings)["tokens"]) == {"strong_after", "sft_control"}


def test_preferences_are_compared_with_as_many_tokens_of_chosen_answers(
    pair: tuple[Path, Path], write_rows: Callable[..., Path]
) -> None:
    rows = [
        {"prompt": f"{n}?", "chosen": str(n), "rejected": [str(n) * k for k in (2, 3, 4)]}
        for n in range(40)
    ]
    never_enough = {"monitor": "val/loss", "min_delta": 100, "patience": 1}
    stopping = {"class_path": "EarlyStopping", "init_args": never_enough}
    settings = {
        "model.strong": pair[0],
        "data.path": write_rows(rows),
        "data.batch_size": 4,
        "data.micro_batch_size": 4,
        "trainer.max_steps": 12,
        "trainer.val_check_interval": 4,  # the run ends at the second, the control does not
        "trainer.callbacks": json.dumps([stopping]),
    }
    results = run("dpo.yaml", settings)
    tokens = results["tokens"]
    early = results["stopped_early"]
    assert (early["step"], early["planned"]) == (8, 12)
    assert 0 <= tokens["sft_control"] - tokens["strong_after"] < 30  # the rest of an answer
    (config,) = Path("runs/dpo").glob("version_0/sft_control/latest/config.yaml")
    trained = yaml.safe_load(config.read_text())["model"]["init_args"]
    overlay = yaml.safe_load((CONFIGS / "dpo-control.yaml").read_text())["model"]["init_args"]
    assert trained["optimizer"]["init_args"]["lr"] == overlay["optimizer"]["init_args"]["lr"]
    assert trained["lam"] == 1 and trained["strong"] == str(pair[0])


@pytest.mark.parametrize(
    ("text", "fault"), [(None, "control_config: there is no"), ("a: [", r"c.yaml:1: is not YAML")]
)
def test_an_overlay_that_cannot_be_read_is_told_of_before_the_run(
    text: str | None, fault: str, pair: tuple[Path, Path]
) -> None:
    file = Path("c.yaml").resolve()
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=fault):
        Evaluation(control_config=InputPath(file)).check_inputs(ModelSource(pair[0]))
