"""``wdl pipeline`` and ``wdl pipeline status`` through the real command."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from attempts import refused
from conftest import CONFIGS

from wdl.cli import main
from wdl.data.score_table import ScoreTable
from wdl.data.weights import brownboost
from wdl.pipeline.record import Record, State
from wdl.pipeline.stages import Step
from wdl.pipeline.status import status

PIPELINE = [sys.executable, "-m", "wdl", "pipeline", "--config", "mine.yaml"]


@pytest.fixture
def rounds(tmp_path: Path, make_branch: Callable[..., Path], sums: Path) -> Path:
    """The shipped rounds on random branches and forty rows; the pipeline's folder."""
    text = (CONFIGS / "pipeline-rounds.yaml").read_text()
    for shipped, ours in (
        ("{here}/tiny/weak", make_branch(seed=1)),
        ("{here}/tiny/strong", make_branch(seed=2)),
        ("{here}/tiny/train.jsonl", sums),
        ("{here}/joint.yaml", CONFIGS / "joint.yaml"),
    ):
        assert shipped in text
        text = text.replace(shipped, str(ours))
    pipeline = yaml.safe_load(text)
    _, group = pipeline["stages"]
    base = ScoreTable(Path("base"), np.arange(40), {"entropy_0": np.linspace(5.5, 5.7, 40)})
    base.write(tmp_path / "base.jsonl")
    group["first"]["entropies"] = str(tmp_path / "base.jsonl")
    pipeline["stages"] = [group]  # scoring the base model would only take time
    group["stages"][1]["command"] += (
        f" --data.path {sums} --evaluation.benchmark null --trainer.max_epochs 1"
        " --data.batch_size 8 --data.micro_batch_size 8"
    )
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(pipeline))
    return tmp_path / "runs" / "rounds"


def test_two_rounds(rounds: Path, capsys: pytest.CaptureFixture[str], sums: Path) -> None:
    done = subprocess.run(PIPELINE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    first, second = (
        yaml.safe_load((rounds / name / "latest/config.yaml").read_text())
        for name in ("joint-1", "joint-2")
    )
    assert second["model"]["init_args"]["weak"] == first["model"]["init_args"]["strong"]
    assert second["model"]["init_args"]["strong"] == str(rounds / "joint-1/latest/strong")
    assert first["data"]["init_args"]["selection"]["weights"] == "normalised"
    assert second["data"]["init_args"]["selection"]["weights"] == "brownboost"
    history = ScoreTable.read(rounds / "score-2" / "entropies.jsonl").rounds()
    assert history.shape == (3, 40)
    assert np.array_equal(
        history[:2], ScoreTable.read(rounds / "score-1" / "entropies.jsonl").rounds()
    )
    assert brownboost(history, 0.1, 0.8, 0.1).std() > 0

    report = json.loads((rounds / "report.json").read_text())["stages"]
    assert [stage["state"] for stage in report] == ["done"] * 4
    assert report[0]["throughput"]["samples_per_second"] > 0
    assert report[3]["throughput"]["tokens_per_second"] > 0

    # what is done is looked up without parsing anything again, and only real changes count
    sums.touch()
    main(["pipeline", "status", "--config", "mine.yaml"])
    assert capsys.readouterr().out.count(" done ") == 4
    sums.write_text(sums.read_text().replace("1 + 1", "1 + 2"))
    main(["pipeline", "status", "--config", "mine.yaml"])
    assert capsys.readouterr().out.count(" changed ") == 4


def test_stages_behind_launchers(
    make_branch: Callable[..., Path], sums: Path, tmp_path: Path
) -> None:
    """Two ranks of torchrun, and a script that stands where srun or sbatch would."""
    (tmp_path / "job.sh").write_text('#!/bin/sh\necho launched\nexec "$@"\n')
    (tmp_path / "job.sh").chmod(0o755)
    branch = make_branch(seed=1)
    fit = (
        f"fit --config {CONFIGS}/sft.yaml --name {{stage}} --runs {{root}} --model.strong {branch}"
        f" --data.path {sums} --data.batch_size 8 --data.micro_batch_size 4 --trainer.devices 2"
        " --data.val_fraction 0.2"
        " --trainer.accelerator cpu --trainer.max_epochs 1 --evaluation.benchmark null"
    )
    score = f"score --model {{sft}}/latest/strong --data {sums} --out {{score}}/e.jsonl"
    torchrun = "torchrun --standalone --nproc_per_node 2 -m"
    stages = [
        {"name": "sft", "command": fit, "launcher": torchrun},
        {"name": "score", "command": score, "launcher": "{here}/job.sh"},
    ]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"here": ".", "stages": stages}))
    done = subprocess.run(PIPELINE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert f"[1/2] sft: {torchrun} wdl fit" in done.stdout
    shards = list(Path("runs/pipeline/sft/version_0").rglob("*optim_states.pt"))
    assert len(shards) == 2  # one of each process
    assert "launched" in (tmp_path / "runs/pipeline/score/log.txt").read_text()
    fitted, scored = json.loads(Path("runs/pipeline/report.json").read_text())["stages"]
    assert "val/strong_loss" in fitted["metrics"] and "tokens_per_second" in fitted["throughput"]
    assert scored["throughput"]["samples_per_second"] == round(40 / scored["seconds"], 3)


def test_a_launcher_that_is_missing_is_named_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = "{name: a, command: tiny, launcher: srum -n 8}"
    (tmp_path / "mine.yaml").write_text(f"here: .\nstages:\n- {stage}\n")
    with pytest.raises(SystemExit) as end:
        main(["pipeline", "--config", "mine.yaml"])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("stage a: launcher: there is no program srum") == 1
    assert not (tmp_path / "runs").exists()


def test_one_stage_in_every_state(tmp_path: Path) -> None:
    steps = [Step(name, ("tiny",)) for name in ("done", "killed", "failed", "changed", "waiting")]
    records: dict[str, State] = {"done": "done", "killed": "running", "changed": "done"}
    before = ""

    def digest(number: int, previous: str) -> str:
        return f"{number} {previous}"

    for number, (name, state) in enumerate(records.items()):
        record = replace(Record(digest(number, before), "wdl tiny", state), ended=name)
        record.write(tmp_path / name)
        before = record.identity
    given = [steps[n] for n in (0, 1, 3, 4)]
    shown = {row[0]: row[1] for row in status(lambda failed: (given, digest), tmp_path)}
    assert shown == {n: n for n in ("done", "killed", "changed", "waiting")}


def test_bad_input_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(
        "here: .\nstages:\n- {name: a, command: 'compare a b'}\n- {name: b, comand: tiny}\n"
    )
    with pytest.raises(SystemExit) as end:
        main(["pipeline", "--config", "mine.yaml"])
    assert end.value.code == 2
    assert capsys.readouterr().err.count("stage b: there is no key comand") == 1
    (tmp_path / "mine.yaml").write_text("here: .\nstages: 3\n")
    with pytest.raises(SystemExit):
        main(["pipeline", "--config", "mine.yaml"])
    assert "stages" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_root_that_is_a_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("here: .\nstages: [{name: a, command: tiny --out x}]\n")
    error = refused(["pipeline", "--config", "mine.yaml", "--root", "mine.yaml"], capsys)
    assert "mine.yaml is a file; choose another place" in error


def test_a_key_that_is_there_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    text = "here: .\nstages:\n- {name: a, command: tiny}\n- name: b\n  command: x\n  name: c\n"
    Path("mine.yaml").write_text(text)
    error = refused(["pipeline", "--config", "mine.yaml"], capsys)
    assert error == "wdl: error: mine.yaml:6: name is there already, in line 4; keep one of them"
