"""The whole path through the real command: fit, control, export, grades, validate, resume."""

import csv
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CONFIGS
from events import read_events, runs_seen
from safetensors.torch import load_file
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from transformers import AutoModelForCausalLM, AutoTokenizer

from wdl.branches.loading import load_branch
from wdl.data.records import RecordReader
from wdl.metrics.dynamics import LOSSES

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def wdl(*args: str, launcher: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *launcher, "-m", "wdl", *args]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stdout[-3000:] + child.stderr[-3000:]
    return child


@pytest.fixture(scope="module")
def settings(
    make_branch: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> list[str]:
    """Flags of a quick run on two random branches, in a folder of its own."""
    folder = tmp_path_factory.mktemp("run")
    rows = [
        {"instruction": f"Compute {n}+{n}.", "output": f"\\boxed{{{2 * n}}}"} for n in range(60)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held_out = [{**row, "answer": row["output"][7:-1]} for row in rows[:3]]
    (folder / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out))
    strong, weak = make_branch(seed=3), make_branch(seed=4)
    flags = {
        "model.strong": strong,
        "model.weak": weak,
        "data.path": folder / "train.jsonl",
        "data.batch_size": 8,
        "data.micro_batch_size": 4,
        "data.val_fraction": 0.2,
        "data.cache": folder / "cache",
        "evaluation.data": folder / "heldout.jsonl",
        "trainer.max_epochs": 2,
        "trainer.log_every_n_steps": 1,
        "trainer.logger": "CSVLogger",
        "runs": folder / "runs",
    }
    given = [f"--{name}={value}" for name, value in flags.items()]
    return ["--config", str(CONFIGS / "joint.yaml"), *given]


@pytest.fixture(scope="module")
def run(settings: list[str]) -> Path:
    """The folder of a finished joint run with its control."""
    child = wdl("fit", *settings)
    (runs,) = (flag.removeprefix("--runs=") for flag in settings if flag.startswith("--runs="))
    Path(runs, "screen.txt").write_text(child.stdout + child.stderr)
    return (Path(runs) / "joint" / "latest" / "strong").resolve().parent


def test_a_run_leaves_everything_where_it_is_looked_for(run: Path) -> None:
    assert run.name == "version_0"
    names = {path.name for path in run.iterdir()}
    assert {"config.yaml", "results.json", "strong", "checkpoints", "evaluation"} <= names
    assert next((run / "checkpoints").glob("*.ckpt"))


def test_results_hold_all_four_rows(run: Path) -> None:
    results = json.loads((run / "results.json").read_text())
    expected = {"weak", "strong_before", "strong_after", "sft_control"}
    assert next(iter(results)) == "exact_match" and list(results)[-1] == "dynamics"
    assert set(results["validation"]) == set(LOSSES.values())
    assert set(results["exact_match"]) == expected
    assert all(0 <= value <= 1 for value in results["exact_match"].values())
    for label in expected:
        answers = (run / "evaluation" / label / "arithmetic.jsonl").read_text().splitlines()
        assert len(answers) == 3


def test_its_pace_is_in_lines_where_no_terminal_is(run: Path) -> None:
    screen = (run.parents[1] / "screen.txt").read_text()
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", screen) and "FLOPs" not in screen
    paces = re.findall(r"^step (\d+) of (\d+): loss .* tokens/s, .* left$", screen, re.MULTILINE)
    results = json.loads((run / "results.json").read_text())
    steps = list(range(1, results["steps"] + 1))
    both = [*steps, *range(1, int(paces[-1][1]) + 1)]  # its own and its control's
    assert [int(step) for step, _ in paces] == both
    assert results["throughput"]["tokens_per_s"] > 0
    assert "throughput/tokens_per_s" in read_events(run).Tags()["scalars"]


def test_the_control_saw_as_many_tokens(run: Path) -> None:
    tokens = json.loads((run / "results.json").read_text())["tokens"]
    rows = list(RecordReader([run.parents[2] / "train.jsonl"]))
    longest = 100 * 2  # no sample is longer; each of two epochs ends with a whole one
    assert len(rows) == 60
    assert tokens["strong_after"] <= tokens["sft_control"] <= tokens["strong_after"] + longest


def test_the_export_loads_and_has_changed(run: Path, settings: list[str]) -> None:
    strong = AutoModelForCausalLM.from_pretrained(run / "strong")
    before = load_branch(settings[2].removeprefix("--model.strong="))
    assert not torch.equal(strong.lm_head.weight, before.lm_head.weight)
    assert AutoTokenizer.from_pretrained(run / "strong").chat_template


def test_events_can_be_read_back(run: Path) -> None:
    events = read_events(run)
    tags = set(events.Tags()["scalars"])
    assert {"train/loss", "val/loss", "val/strong_loss", "val/weak_loss"} <= tags
    assert {"selection/unique", "selection/effective_sample_size"} <= tags
    assert {"val/dynamics/hard_negatives/mass", "final/loss"} <= tags
    (logged,) = events.Scalars("final/loss")
    assert logged.value == pytest.approx(events.Scalars("val/loss")[-1].value)
    metadata = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    settings = HParamsPluginData.FromString(metadata).session_start_info.hparams
    assert settings["model/lam"].number_value == 0.5
    assert "data/selection/weights" in settings
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses[-1] < losses[0]


def test_another_logger_has_all_scalars_too(run: Path) -> None:
    """Under their names, in the run's folder; the control's are its own."""
    rows = list(csv.DictReader((run / "csv" / "metrics.csv").open()))
    assert set(read_events(run).Tags()["scalars"]) < rows[0].keys()
    assert "val/dynamics/margin/weak" in rows[0]
    (accuracy,) = (n for n in rows[0] if re.search("evaluation/.*accuracy/sft_control", n))
    results = json.loads((run / "results.json").read_text())
    (graded,) = (float(row[accuracy]) for row in rows if row[accuracy])
    assert graded == results["exact_match"]["sft_control"]
    assert len(list(run.glob("sft_control/version_0/csv/metrics.csv"))) == 1


def test_tensorboard_shows_every_run_once(run: Path) -> None:
    version, control = "joint/version_0", "joint/version_0/sft_control/version_0"
    assert {name for name in runs_seen(run.parents[1]) if name.startswith("joint/")} == {
        *(version, *(f"{version}/dynamics/{branch}" for branch in LOSSES)),
        *(control, *(f"{control}/dynamics/{branch}" for branch in ("strong", "mixed"))),
    }


def test_validate_gives_the_metrics_and_grades_of_the_fit(
    run: Path, settings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")  # in which no number is cut
    last = json.loads((run / "results.json").read_text())
    printed = wdl("validate", *settings, "--ckpt_path", "last").stdout
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.split()}
    assert printed.index("per completion token") < printed.index("protocol quick")
    (graded,) = (run / "checkpoints").glob("*.evaluation")
    assert {path.name for path in graded.iterdir() if path.is_dir()} == {"strong"}
    answers = (graded / "strong" / "arithmetic.jsonl").read_text()
    assert answers == (run / "evaluation" / "strong_after" / "arithmetic.jsonl").read_text()
    losses = [last["validation"][name] for name in LOSSES.values()]
    assert list(map(float, rows["loss"])) == pytest.approx(losses, rel=1e-3)
    dynamics = [last["dynamics"][f"margin/{of}"] for of in LOSSES]
    assert list(map(float, rows["margin"])) == pytest.approx(dynamics, rel=1e-3)
    first = ["per", "loss", "entropy", "margin", "p", "saturation", "also", "target"]
    found = [line.split()[0] for line in printed.splitlines() if re.match(r" \w", line)]
    assert found[: len(first)] == first
    (mass,) = (line.split()[-1] for line in printed.splitlines() if "negatives, mass" in line)
    assert float(mass) == pytest.approx(last["dynamics"]["hard_negatives/mass"], rel=1e-3)


def test_a_second_run_overwrites_nothing(run: Path, settings: list[str]) -> None:
    before = (run.parent / "version_0" / "results.json").read_bytes()
    quick = [
        "--trainer.max_steps=1",
        "--evaluation.benchmark=null",
        "--evaluation.sft_control=false",
    ]
    wdl("fit", *settings, *quick)
    assert (run.parent / "version_0" / "results.json").read_bytes() == before
    assert (run.parent / "version_1" / "strong" / "model.safetensors").exists()
    assert (run.parent / "latest" / "strong").resolve().parent.name == "version_1"
    hyperparameters = yaml.safe_load((run.parent / "version_1" / "hparams.yaml").read_text())
    assert hyperparameters["model"]["lam"] == 0.5


def test_a_killed_run_ends_as_if_nothing_had_happened(run: Path, settings: list[str]) -> None:
    flags = [
        *("--name=killed", "--checkpoint.every_n_train_steps=1"),
        *("--evaluation.benchmark=null", "--evaluation.sft_control=false"),
    ]
    command = [sys.executable, "-m", "wdl", "fit", *settings, *flags]
    killed = run.parents[1] / "killed"
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(killed.glob("version_0/checkpoints/*step=[3-9].ckpt/latest")):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert not (killed / "version_0" / "strong").exists()
    wdl("fit", *settings, *flags, "--ckpt_path", "last")
    whole = load_file(run / "strong" / "model.safetensors")
    resumed = load_file(killed / "version_1" / "strong" / "model.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)

    # killed after the last step: nothing is left to train, but the export is
    shutil.rmtree(killed / "version_1" / "strong")
    wdl("fit", *settings, *flags, "--ckpt_path", "last")
    exported = load_file(killed / "version_2" / "strong" / "model.safetensors")
    assert all(torch.equal(whole[name], exported[name]) for name in whole)


def test_a_weak_branch_that_does_not_train_is_read_again(run: Path, settings: list[str]) -> None:
    flags = [
        *("--model.train_weak=false", "--checkpoint.every_n_train_steps=1"),
        *("--checkpoint.save_top_k=-1", "--name=frozen"),
        *("--evaluation.benchmark=null", "--evaluation.sft_control=false"),
    ]
    wdl("fit", *settings, *flags)
    runs = run.parents[1] / "frozen"
    (checkpoint,) = runs.glob("version_0/checkpoints/*step=3.ckpt")
    wdl("fit", *settings, *flags, "--ckpt_path", str(checkpoint))
    whole, resumed = (
        load_file(runs / version / "strong" / "model.safetensors")
        for version in ("version_0", "version_1")
    )
    assert all(torch.equal(whole[name], weight) for name, weight in resumed.items())


def test_torchrun_with_two_processes_under_zero_3_trains_the_same(
    run: Path, settings: list[str]
) -> None:
    """Also when evaluations on the way are given up."""
    flags = [
        *("--name=ranks", "--trainer.devices=2", "--trainer.strategy.init_args.stage=3"),
        *("--evaluation.every_n_validations=1", "--evaluation.limit=1"),
        "--evaluation.sft_control=false",
    ]
    printed = wdl("fit", *settings, *flags, launcher=TORCHRUN).stderr
    assert (
        len(re.findall(r"at step \d+ failed: not done within 1 s; training goes on", printed)) == 2
    )
    for branch in LOSSES:  # one of the processes writes
        assert len(list(run.parents[1].glob(f"ranks/version_0/dynamics/{branch}/*"))) == 1
    whole = load_file(run / "strong" / "model.safetensors")
    shared = load_file(run.parents[1] / "ranks/version_0/strong/model.safetensors")
    for name, weight in whole.items():
        torch.testing.assert_close(shared[name], weight, rtol=0, atol=1e-5)
    validation = [
        json.loads((folder / "results.json").read_text())["validation"]
        for folder in (run, run.parents[1] / "ranks/version_0")
    ]
    for name in ("val/loss", "val/strong_loss", "val/weak_loss"):
        assert validation[1][name] == pytest.approx(validation[0][name], rel=1e-5)
