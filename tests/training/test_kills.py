"""SIGKILL at random moments: what comes out is to the bit what an undisturbed run gives.

The moments are within checkpoints and exports too. ``make test`` kills twice; ``make kill-test`` 30
times, over all strategies.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS
from safetensors.torch import load_file

KILLS = int(os.environ.get("WDL_TEST_KILLS", 2))
DEEPSPEED = "--trainer.strategy.init_args.stage"
STRATEGIES = {
    "zero3": ["--trainer.devices=2", f"{DEEPSPEED}=3"],
    "zero2": ["--trainer.devices=2", f"{DEEPSPEED}=2", "--model.train_weak=false"],
    "zero1": ["--trainer.devices=2", f"{DEEPSPEED}=1"],
    "ddp": ["--trainer.devices=2", "--trainer.strategy=ddp"],
    "alone": [f"{DEEPSPEED}=2"],
    "dpo": ["--trainer.devices=2", f"{DEEPSPEED}=2"],
}
# the first and the last every day
CHOSEN = [*list(STRATEGIES)[: max(1, KILLS // 6)], "dpo"]
STEPS = 20


@pytest.fixture(scope="module")
def flags(
    make_branch: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[str]]:
    """Of each method."""
    folder = tmp_path_factory.mktemp("kills")
    rows = [{"instruction": f"{n}+{n}", "output": str(2 * n)} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = [
        {"prompt": f"{n}+{n}", "chosen": [str(2 * n), f"{2 * n}."], "rejected": [str(2 * n + 1)]}
        for n in range(40)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    settings = {
        "model.strong": make_branch(seed=3),
        "data.batch_size": 4,
        "data.micro_batch_size": 2,
        "data.val_fraction": 0.1,
        "data.cache": folder / "cache",
        "trainer.max_steps": STEPS,
        "trainer.max_epochs": -1,
        "checkpoint.every_n_train_steps": 2,
        "evaluation.benchmark": "null",
        "evaluation.sft_control": False,
        "runs": folder / "runs",
    }
    given = [f"--{name}={value}" for name, value in settings.items()]
    methods = {
        "dpo": [f"--data.path={folder / 'pairs.jsonl'}"],
        "joint": [
            f"--data.path={folder / 'rows.jsonl'}",
            f"--model.weak={make_branch(seed=4)}",
            "--data.selection.weights=uniform",
        ],
    }
    return {
        method: ["--config", f"{CONFIGS / method}.yaml", *own, *given]
        for method, own in methods.items()
    }


def start(flags: list[str], log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "wdl", "fit", *flags]
    with log.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, start_new_session=True)


def moments(run: Path, strategy: str, chance: random.Random) -> dict[str, Callable[[], bool]]:
    """Ways to say whether the time to kill has come."""
    before = {*run.glob("version_*/checkpoints/*.ckpt")}
    begun, wait = time.monotonic(), chance.uniform(0, 10)
    several = chance.randint(1, STEPS // 2 - 2)
    ways: dict[str, Callable[[], bool]] = {
        "export": lambda: any(run.glob("version_*/.strong.*.partial")),
        "steps": lambda: len({*run.glob("version_*/checkpoints/*.ckpt")} - before) >= several,
        "start": lambda: time.monotonic() - begun > wait,
    }
    if strategy != "ddp":  # which writes to the folder for temporary files
        ways["checkpoint"] = lambda: any(run.glob("version_*/checkpoints/.*.partial"))
    return ways


@pytest.mark.parametrize("strategy", CHOSEN)
def test_a_killed_run_ends_as_if_nothing_had_happened(
    strategy: str, flags: dict[str, list[str]]
) -> None:
    chance = random.Random(f"{strategy} {time.time_ns()}")
    method = "dpo" if strategy == "dpo" else "joint"
    options = [*flags[method], *STRATEGIES[strategy]]
    runs = Path(flags[method][-1].removeprefix("--runs="))
    log = runs.with_name(f"{strategy}.log")
    undisturbed, killed = f"{strategy}-whole", f"{strategy}-killed"
    assert start([*options, f"--name={undisturbed}"], log).wait(300) == 0, log.read_text()[-3000:]
    expected = load_file(runs / undisturbed / "latest/strong/model.safetensors")

    again = [*options, f"--name={killed}", "--ckpt_path=last"]
    count, ways = 0, ["checkpoint", "export", "steps", "start"]
    while count < KILLS // len(CHOSEN):
        known = moments(runs / killed, strategy, chance)
        way = known.get(ways[count % len(ways)], known["steps"])
        process = start(again, log)
        while not way() and process.poll() is None:
            time.sleep(0.001)
        if process.poll() is not None:
            assert process.returncode == 0, log.read_text()[-3000:]
            shutil.rmtree(runs / killed)  # it was done before the moment came
            continue
        (os.killpg if chance.random() < 0.7 else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        wait_for_the_others(process.pid)
        count += 1
    assert start(again, log).wait(300) == 0, log.read_text()[-3000:]
    ended = load_file(runs / killed / "latest/strong/model.safetensors")
    assert all(torch.equal(ended[name], weight) for name, weight in expected.items())


def wait_for_the_others(group: int) -> None:
    """The other ranks end with the first, within a minute."""
    deadline = time.monotonic() + 60
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)
