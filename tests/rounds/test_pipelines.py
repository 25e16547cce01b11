"""The pipelines of rounds that the project ships, at their smallest and whole, and killed.

Their texts are as shipped but for sizes, and stand in a copy of configs/ whose data is cut to a few
rows. ``make test`` kills the rounds of self-training twice; ``make kill-test`` 20 times, all stages
included.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from attempts import read
from conftest import CONFIGS
from pipelines import Dialogue, forget, kill, moment, reaches, results, running
from processes import killed_at_the_end

from wdl.cli import main
from wdl.pipeline.record import Record
from wdl.system.journal import read_entries

KILLS = int(os.environ.get("WDL_TEST_KILLS", 2))
EVERY_DAY = KILLS <= 2
ROUNDS = 2 if EVERY_DAY else 3
TAIL = ("right", "control", "evaluation")  # what comes after the rounds
# at the first seven the embedded model fails now and then
ROWS = (22, 26, 28, 31, 33, 35, 0, 1, 2, 3, 5, 6)
HELD_OUT = 6
FIT = "--name {stage}"
SMALL = {
    "self-training": {"rounds: 3": f"rounds: {ROUNDS}", "--n 8": "--n 4"},
    "rejection-sampling": {"rounds: 2": "rounds: 1"},
    # what follows a fit is run in the others
    "own-answers": {FIT: f"{FIT} --evaluation.benchmark null --evaluation.sft_control false"},
}
EACH = {
    "--max_new_tokens 256": "--max_new_tokens 128",
    FIT: (
        f"{FIT} --trainer.max_steps 2 --checkpoint.every_n_train_steps 1 --data.batch_size 4"
        " --data.micro_batch_size 4"
    ),
}
STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    with killed_at_the_end(STARTED):
        yield


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of configs/ that is small, and ``runs`` beside it."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(CONFIGS, folder / "configs")
    for name, rows in (("train", ROWS), ("heldout", range(HELD_OUT))):
        file = folder / f"configs/tiny/{name}.jsonl"
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[number] for number in rows))
    for name, sizes in SMALL.items():
        file = config(folder, name)
        text = file.read_text()
        for shipped, small in (*sizes.items(), *EACH.items()):
            assert shipped in text
            text = text.replace(shipped, small)
        file.write_text(text)
    return folder


@pytest.fixture(autouse=True)
def _in_site(site: Path, _own_folder: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)


def config(site: Path, name: str) -> Path:
    return site / f"configs/pipeline-{name}.yaml"


def start(site: Path, name: str, *options: str, **pipes: Any) -> subprocess.Popen:
    words = [sys.executable, "-m", "wdl", "pipeline", "--config", str(config(site, name))]
    STARTED.append(
        subprocess.Popen(
            [*words, *options], cwd=site, start_new_session=True, stderr=subprocess.STDOUT, **pipes
        )
    )
    return STARTED[-1]


def run(site: Path, name: str, *options: str) -> str:
    """What a pipeline prints that ends well."""
    process = start(site, name, *options, stdout=subprocess.PIPE, text=True)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed[-3000:]
    return printed


@pytest.fixture(scope="module")
def whole(site: Path) -> Path:
    """The folder of self-training that nothing disturbed."""
    run(site, "self-training")
    return site / "runs/self-training"


def states(root: Path) -> dict[str, str]:
    stages = json.loads((root / "report.json").read_text())["stages"]
    return {stage["name"]: stage["state"] for stage in stages}


def stage(root: Path, name: str) -> dict[str, Any]:
    stages = json.loads((root / "report.json").read_text())["stages"]
    return next(stage for stage in stages if stage["name"] == name)


def test_self_training(whole: Path) -> None:
    warm_up = {"pairs-1": "skipped", "train-1": "skipped"}
    assert states(whole) == dict.fromkeys(states(whole), "done") | warm_up
    assert {f"train-{number}" for number in range(1, ROUNDS + 1)} < set(states(whole))

    # the report says what became of each round, as the verdicts have it
    (group,) = json.loads((whole / "report.json").read_text())["groups"]
    shares = []
    for number in range(1, ROUNDS + 1):
        graded = read(whole / f"grade-{number}/graded.jsonl")
        shares.append(sum(row["verdict"] == "right" for row in graded) / len(graded))
    assert group["values"]["grade: pass@1"] == pytest.approx(shares)
    assert 0.2 < shares[0] < 1
    shown = (whole / "report.md").read_text()
    assert f"| grade: pass@1 | {shares[0]:.4g} | {shares[1]:.4g} |" in shown
    assert (whole / "report.svg").read_text().count("<svg") == 1

    # each round trains the weights of the round before, on the pairs of all rounds
    fit = yaml.safe_load((whole / "train-2/latest/config.yaml").read_text())
    assert fit["model"]["init_args"]["strong"].endswith("configs/tiny/strong")
    assert stage(whole, "train-2")["amounts"]["steps"] == 2
    described = json.loads((whole / "pairs-2/description.json").read_text())
    assert described["attempts"]["attempts"] == 48 + len(read(whole / "sample-2/samples.jsonl"))
    assert described["train"]["pairs"] > 0
    asked = {row["id"] for row in read(whole / "sample-2/samples.jsonl")}
    assert asked == {row["id"] for row in read(whole / "renew-1/pool.jsonl")}
    assert {row["origin"] for row in read(whole / "renew-1/pool.jsonl")} == {"replay", "enhanced"}

    grades = stage(whole, "evaluation")["metrics"]
    assert set(grades) == {f"arithmetic/{name}" for name in ("before", "after", "control")}
    compared = [whole / f"evaluation/{name}/arithmetic.json" for name in ("after", "control")]
    models = {json.loads(file.read_text())["inputs"]["model_sha256"] for file in compared}
    assert len(models) == 2


def test_rejection_sampling(site: Path) -> None:
    run(site, "rejection-sampling")
    root = site / "runs/rejection-sampling"
    assert set(states(root).values()) == {"done"}
    graded = {
        (row["id"], row["completion"])
        for row in read(root / "grade-1/graded.jsonl")
        if row["verdict"] == "right"
    }
    kept = read(root / "keep-1/rows.jsonl")
    assert 0 < len(kept) <= len({question for question, _ in graded})
    texts = {text for _, text in graded}
    assert all(row["messages"][-1]["content"] in texts for row in kept)
    assert stage(root, "train-1")["amounts"]["steps"] == 2
    grades = stage(root, "evaluation")["metrics"]
    assert set(grades) == {"arithmetic/before", "arithmetic/after"}


def test_own_answers(site: Path) -> None:
    run(site, "own-answers")
    root = site / "runs/own-answers"
    assert set(states(root).values()) == {"done"}
    assert stage(root, "joint")["amounts"]["steps"] == 2
    fit = yaml.safe_load((root / "joint/latest/config.yaml").read_text())
    assert fit["data"]["init_args"]["path"] == str(root / "keep/rows.jsonl")
    assert fit["model"]["init_args"]["weak"].endswith("configs/tiny/weak")


def test_step_by_step(site: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = site / "runs/stepped"
    copy_until("renew-1", whole, root)
    held_out = site / "configs/tiny/heldout.jsonl"
    sound = held_out.read_text()
    held_out.write_text(sound + "broken\n")
    again = ": (c)ontinue, (s)tatus, (q)uit? "
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    talk = Dialogue(start(site, "self-training", "--root", str(root), "--step", "true", **pipes))
    try:
        assert talk.asks().endswith(f"round 1 of {ROUNDS}, from renew-1{again}")
        asked = talk.hears("s")
        assert "waiting" in asked and asked.endswith(again)
        asked = talk.hears("c")
        failure = "stage renew-1 failed with exit code 2: (r)etry, (s)tatus, (q)uit? "
        assert "heldout.jsonl:7: " in asked and asked.endswith(failure)
        assert talk.hears("r").endswith(failure)
    finally:
        held_out.write_text(sound)
    assert talk.hears("r").endswith(f"round 2 of {ROUNDS}, from sample-2{again}")
    assert "the same command goes on from here" in talk.hears("q")
    assert talk.process.wait(60) == 0

    assert states(root)["renew-1"] == "done" and states(root)["sample-2"] == "waiting"
    same = [folder / "renew-1/pool.jsonl" for folder in (root, whole)]
    assert same[0].read_bytes() == same[1].read_bytes()
    # a stage that was mended and tried again is done with what it has read by then
    looked_at = ["--config", str(config(site, "self-training")), "--root", str(root)]
    before = sorted(root.rglob("*"))
    main(["pipeline", *looked_at, "--dry_run", "true"])
    lines = capsys.readouterr().out.splitlines()
    decisions = dict(line.split("] ")[1].split(": ")[:2] for line in lines if "] " in line)
    assert decisions == dict.fromkeys(states(root), "run") | {
        **dict.fromkeys(("sample-1", "grade-1", "renew-1"), "keep"),
        **dict.fromkeys(("pairs-1", "train-1"), "skip"),
    }
    main(["pipeline", "status", *looked_at, "--full", "true"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if "-1 " in line][:3] == ["done", "done", "skipped"]
    assert f"sound model  {site / 'configs/tiny/strong'}" in lines
    assert f"there        {held_out}" in lines
    assert lines[-1].startswith("next: sample-2, as it has not run yet: wdl sample")
    assert sorted(root.rglob("*")) == before


def copy_until(first: str, whole: Path, root: Path) -> None:
    """A pipeline's folder as it was before a stage."""
    shutil.copytree(whole, root, symlinks=True)
    forget(first, list(states(whole)), root)


def another(site: Path, whole: Path, name: str) -> tuple[Path, Path, list[str]]:
    """A second site, its folder of self-training and the stages in it that run.

    Folders below have the same names, which are in the cards of models. Every day without what
    comes after the rounds.
    """
    elsewhere = site / name
    shutil.copytree(site / "configs", elsewhere / "configs")
    names = [name for name, state in states(whole).items() if state == "done"]
    if EVERY_DAY:
        file = config(elsewhere, "self-training")
        pipeline = yaml.safe_load(file.read_text())
        pipeline["stages"] = pipeline["stages"][:1]
        file.write_text(yaml.safe_dump(pipeline))
        names = [name for name in names if name not in TAIL]
    return elsewhere, elsewhere / "runs/self-training", names


def assert_same(whole: Path, root: Path, names: list[str]) -> None:
    assert not list(root.glob("*.superseded-*"))
    expected, ended = results(whole, names), results(root, names)
    assert expected.keys() == ended.keys()
    assert {name for name, content in expected.items() if ended[name] != content} == set()


def test_killed_rounds_end_as_if_nothing_had_happened(site: Path, whole: Path) -> None:
    seconds = {name: stage(whole, name)["seconds"] for name in states(whole)}
    elsewhere, root, names = another(site, whole, "killed")
    chance = random.Random(time.time_ns())
    chosen = sorted(chance.choices(names, k=KILLS), key=names.index)
    if EVERY_DAY:
        copy_until(chosen[0], whole, root)
    journals = site / "journals"
    journals.mkdir()
    with (site / "killed.log").open("wb") as log:
        for name in chosen:
            while True:
                process = start(elsewhere, "self-training", stdout=log)
                if reaches(process, moment(root / name, seconds[name], chance)):
                    break
                assert process.returncode == 0, (site / "killed.log").read_text()[-3000:]
                forget(name, names, root)  # it was done before the moment came
            kill(process, with_its_stage=chance.random() < 0.7)
            for journal in root.glob("*/.*.journal"):
                known = journals / f"{journal.parent.name}{journal.name}"
                if not known.exists():
                    known.hardlink_to(journal)  # it is removed when the stage is done
        assert start(elsewhere, "self-training", stdout=log).wait(600) == 0
    assert_same(whole, root, names)
    if not EVERY_DAY:
        assert stage(root, "evaluation")["metrics"] == stage(whole, "evaluation")["metrics"]
    for journal in journals.iterdir():
        entries = list(read_entries(journal))
        keys = {(entry["id"], entry.get("sample", entry.get("attempt"))) for entry in entries}
        assert len(keys) == len(entries), journal.name


def test_a_signal_in_a_stage_ends_it_and_the_next_start_goes_on(site: Path, whole: Path) -> None:
    """Ctrl-C and SIGTERM, in two stages every day and in every one by ``make kill-test``."""
    seconds = {name: stage(whole, name)["seconds"] for name in states(whole)}
    elsewhere, root, names = another(site, whole, "stopped")
    chance = random.Random(time.time_ns())
    chosen = sorted(chance.sample(names, 2), key=names.index) if EVERY_DAY else names
    if EVERY_DAY:
        copy_until(chosen[0], whole, root)
    numbers = (signal.SIGINT, signal.SIGTERM)
    for count, name in enumerate(chosen):
        for number in (numbers[count % 2],) if EVERY_DAY else numbers:
            while True:
                process = start(elsewhere, "self-training", stdout=subprocess.PIPE, text=True)
                if reaches(process, running(root / name, seconds[name], chance)):
                    break
                assert process.returncode == 0, process.communicate()[0][-3000:]
                forget(name, names, root)  # it was done before the moment came
            process.send_signal(number)
            printed, _ = process.communicate(timeout=120)
            assert process.returncode == 128 + number, (name, number, printed[-3000:])
            assert "the same command goes on from here" in printed, (name, number, printed)
            record = Record.read(root / name)
            # behind its last step a fit has nothing to stop; whether it is whole is seen below
            assert record is not None and record.state in ("stopped", "done"), (name, record)
    process = start(elsewhere, "self-training", stdout=subprocess.PIPE, text=True)
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == 0, printed[-3000:]
    assert_same(whole, root, names)


def test_the_pipeline_of_a_large_model_is_understood(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of its commands is parsed, with files where its text has capitals; none runs."""
    text = config(site, "self-training-8b").read_text()
    for capitals, ours in (
        ("{here}/QUESTIONS.jsonl", "{here}/tiny/train.jsonl"),
        ("{here}/BENCHMARK.jsonl", "{here}/tiny/heldout.jsonl"),
        ("{here}/VLLM/bin", str(Path(sys.executable).parent)),
        ("https://TEACHER/v1", "http://localhost:9/v1"),
        ("NAME", "teacher"),
    ):
        assert capitals in text
        text = text.replace(capitals, ours)
    config(site, "mine").write_text(text)
    main(["pipeline", "--config", str(config(site, "mine")), "--dry_run", "true"])
    lines = capsys.readouterr().out.splitlines()
    decisions = dict(line.split("] ")[1].split(": ")[:2] for line in lines if "] " in line)
    assert len(decisions) == 5 * 6 + 1
    skipped = {name for name, decision in decisions.items() if decision == "skip"}
    assert skipped == {"pairs-1", "pairs-2", "train-1", "train-2"}
    assert set(decisions.values()) == {"run", "skip"}
