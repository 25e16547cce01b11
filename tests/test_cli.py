"""The command line: help that loads nothing heavy, and one line for every mistake of a user."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import CONFIGS

from wdl.cli import VERBS, main
from wdl.config.fit_help import BRIEF
from wdl.system.processes import check_launcher

JOINT = str(CONFIGS / "joint.yaml")
NEEDLESS = {"transformers", "datasets", "matplotlib"}


def fails(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """What a failing command prints on the error stream, its exit code checked."""
    with pytest.raises(SystemExit) as end:
        main(list(args))
    assert end.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("wdl: error")]
    assert lines, "no line says what is wrong"
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("command", "needless"),
    [
        (["--help"], {"torch", *NEEDLESS}),
        (["score", "--help"], {"torch", *NEEDLESS}),
        (["fit", "--help"], NEEDLESS),
        (["fit", "--config", JOINT, "--model.lamm", "1"], NEEDLESS),
    ],
)
def test_help_and_complaints_load_nothing_heavy(command: list[str], needless: set[str]) -> None:
    code = "import sys, wdl.cli\ntry: wdl.cli.main(sys.argv[1:])\nfinally: print(*sys.modules)"
    child = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
    assert child.returncode == (2 if "--model.lamm" in command else 0), child.stderr
    *shown, loaded = child.stdout.splitlines()
    assert shown or "there is no such key (model.lam?)" in child.stderr
    assert "wdl.cli" in loaded.split() and not needless & set(loaded.split())


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert len(capsys.readouterr().out) > 200


def helped(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit):
        main(["fit", *words])
    return capsys.readouterr().out


def test_the_help_of_a_fit_can_be_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    brief = helped(capsys, "--help")
    assert len(brief.splitlines()) < 260 and max(map(len, brief.splitlines())) < 90
    config = yaml.safe_load(helped(capsys, "--config", JOINT, "--print_config"))
    ours = {f"--{room}.{name}" for room in ("export", "evaluation") for name in config[room]}
    ours |= {f"--{room}.{name}" for room in ("model", "data") for name in config[room]["init_args"]}
    ours -= {"--data.strong", "--data.weak"}  # which --model.strong and --model.weak fill in
    shown = set(re.findall(r"^  (--[\w.]+)", brief, re.MULTILINE))
    assert all(any(f"{one}.".startswith(f"{name}.") for one in shown) for name in ours)
    assert {"--name", "--runs", "--ckpt_path", "--trainer.devices"} <= shown
    assert {f"--{name}" for name in BRIEF} - shown == {"--config"}  # each is an option still
    assert "--trainer.plugins" not in brief and "wdl fit --help all" in brief
    assert "--trainer.plugins" in helped(capsys, "--help", "all")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model.lam", "1.5"], "model.lam: 1.5"),
        (["--model.lam", "much"], "model.lam"),
        (["--trainer.max_epochs", "x"], "trainer.max_epochs: Expected one of int, null. Got"),
        (["--model.lamm", "1"], "model.lamm: there is no such key (model.lam?)"),
        (["--trainer.max_step", "4"], "--trainer.max_step"),
        (["--model", "mine.Missing"], "model: mine.Missing names no class that fits here"),
        (["--model", "wdl.training.pair.Pair"], "model: wdl.training.pair.Pair names no class"),
        (["--data", "wdl.fit.FitCLI"], "data: wdl.fit.FitCLI names no class that fits here"),
        (["--data.selection.alph", "1"], "there is no such key (data.selection.alpha?)"),
        (["--model.lora.rank", "x"], "model.lora.rank: Expected a int. Got value: x"),
        (["--runs", "/proc/nowhere"], "--runs: /proc cannot be written to"),
        (["--trainer.precision", "16-mixed"], "trainer.precision: 16-mixed needs a GPU"),
        (["--trainer.devices", "2"], "for example data.micro_batch_size 8"),
        (["--data.path", "missing.jsonl"], "missing.jsonl: there is no such file"),
        (["--model.weak", "./nowhere"], "model.weak: there is no folder nowhere"),
        (["--model.strong", "./nowhere"], "model.strong: there is no folder nowhere"),
        (["--model.weak", "null"], "data.selection.weights: normalised compares two branches"),
        (["--ckpt_path", "no.ckpt"], "ckpt: there is no checkpoint no.ckpt"),
        (["--data.micro_batch_size", "5"], "data.batch_size: 16 is not a multiple"),
        (["--data.selection.weights", "best"], "data.selection.weights"),
        (["--data.selection.alpha", "-1"], "alpha, beta and gamma must not be negative"),
        (["--trainer.strategy.init_args.offload_parameters", "true"], "offload_parameters"),
        (["--model.weak_dtype", "bfloat16"], "model.weak_dtype: bfloat16 is for a weak branch"),
        (
            [
                *("--model.train_weak", "false", "--model.weak_dtype", "bfloat16"),
                *("--trainer.strategy.init_args.stage", "3"),
            ],
            "model.weak_dtype: ZeRO stage 3 shards all weights in one dtype",
        ),
        (["--model.lora.rank", "8"], "model.train_weak: with model.lora"),
        (["--evaluation.benchmark", "gsm9k"], "evaluation: --benchmarks gsm9k: choose from"),
        (["--evaluation.protocol", "paper"], "evaluation: model.strong on arithmetic: a prompt of"),
        (["--evaluation.every_n_validations", "0"], "evaluation.every_n_validations: 0"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--config", "https://a.org/b.yaml"], "--config https://a.org/b.yaml: is an address"),
        (["--data.cache", "/proc/nowhere"], "data.cache: /proc cannot be written to"),
        (["--trainer.devices", "0"], "trainer: `Trainer(devices='0')` value is not a valid input"),
        (["--trainer.strategy", "fsdp"], "trainer: The strategy `fsdp` requires a GPU"),
        (["--trainer.accumulate_grad_batches", "4"], "trainer.accumulate_grad_batches: it follows"),
    ],
)
def test_bad_flags(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = fails(capsys, "fit", "--config", JOINT, *flags)
    assert message in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "data.jsonl: the file is empty"),
        (bytes(range(256)), "data.jsonl: this is no UTF-8 text"),
        (b'{"instruction": "a", "output": "b"}\n{"instruction": ', "data.jsonl:2: broken JSON"),
        (b'{"instruction": "a"}\n', "data.jsonl:1: 'output' is missing"),
    ],
)
def test_bad_data(
    content: bytes, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "data.jsonl").write_bytes(content)
    assert message in fails(capsys, "fit", "--config", JOINT, "--data.path", "data.jsonl")


def test_every_bad_row_has_its_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"instruction": "a"}\n' * 30)
    lines = fails(capsys, "fit", "--config", JOINT, "--data.path", "data.jsonl").splitlines()
    assert len(lines) == 21
    assert "data.jsonl:20:" in lines[19]
    assert "10 more" in lines[20]


def test_an_unknown_key_in_a_yaml(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model:\n  lam: 1\n  train_weka: true\n")
    printed = fails(capsys, "fit", "--config", JOINT, "--config", "mine.yaml")
    assert "mine.yaml:3: model.train_weka: there is no such key (model.train_weak?)" in printed
    assert printed.endswith("; see wdl fit --help")


def test_a_wrong_value_is_found_where_it_stands(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "first.yaml").write_text("model:\n  lam: 0.4\n  schedule: cosin\n")
    (tmp_path / "second.yaml").write_text("model:\n  schedule: linear\n")
    files = ["--config", JOINT, "--config=first.yaml", "--config", "second.yaml"]
    printed = fails(capsys, "fit", *files)
    assert "first.yaml:3: model.schedule: Expected one of 'cosine', 'linear', 'const" in printed
    printed = fails(capsys, "fit", "--config", JOINT, "--model.schedule", "linea")
    assert "wdl: error: model.schedule: Expected one of" in printed
    (tmp_path / "score.yaml").write_text("data: missing.jsonl\nmax_length: long\n")
    printed = fails(capsys, "score", "--config", "score.yaml")
    assert "score.yaml:2: max_length: Expected a int. Got value: long" in printed
    (tmp_path / "score.yaml").write_text("models: missing\n")
    printed = fails(capsys, "score", "--config", "score.yaml")
    assert "score.yaml:1: models: there is no such key (model?); see wdl score --help" in printed


def test_broken_yaml(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: {lam: 0.5\n")
    assert "mine.yaml:2: is not YAML" in fails(capsys, "fit", "--config", "mine.yaml")
    (tmp_path / "mine.yaml").write_text("- model\n")
    assert "mine.yaml:1: holds no keys" in fails(capsys, "fit", "--config", "mine.yaml")
    (tmp_path / "mine.yaml").write_bytes(b"\xff")
    assert "mine.yaml: is not YAML" in fails(capsys, "fit", "--config", "mine.yaml")


def test_branches_of_different_vocabularies(
    make_branch: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    weak = make_branch(vocab_size=320)
    assert "both branches must share one vocabulary" in fails(
        capsys, "fit", "--config", JOINT, "--model.weak", str(weak)
    )


def test_a_folder_that_is_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = fails(capsys, "fit", "--config", JOINT, "--model.strong", str(tmp_path))
    assert "holds no config.json" in message


@pytest.mark.parametrize("damage", ["config.json", "tokenizer.json"])
def test_a_damaged_model_folder(
    damage: str,
    make_branch: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(make_branch(), tmp_path / "damaged")
    (folder / damage).write_text("{broken")
    message = fails(capsys, "fit", "--config", JOINT, "--model.strong", str(folder))
    assert "damaged" in message


def test_an_unknown_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert "train: there is no such verb" in fails(capsys, "train")


def test_no_verb_shows_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert "fit" in capsys.readouterr().out


def test_other_processes_than_torchrun_started(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "a"}
    for name, value in {**ranks, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    printed = fails(capsys, "fit", "--config", JOINT)
    assert "trainer.devices, trainer.num_nodes: You set `devices=1`" in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"MASTER_PORT": "abc"}, "MASTER_PORT is 'abc' and no whole number"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is no port"),
        ({"RANK": "first"}, "RANK is 'first' and no whole number"),
        (
            {"SLURM_NTASKS": "1"},
            "has SLURM_NTASKS but no SLURM_PROCID, SLURM_LOCALID, SLURM_NODEID",
        ),
        ({"TORCHELASTIC_RUN_ID": "a", "RANK": "0"}, "has TORCHELASTIC_RUN_ID but no LOCAL_RANK, W"),
        (
            {"WORLD_SIZE": "2"},
            "process 0 of 2 (RANK, WORLD_SIZE), the trainer that it is process 0",
        ),
        (
            {"RANK": "1"},
            "this is process 1 of 1 (RANK, WORLD_SIZE), the trainer that it is process 0",
        ),
    ],
)
def test_half_of_a_launcher(
    variables: dict[str, str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("wdl.cli.time.sleep", lambda _: None)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    printed = fails(capsys, "fit", "--config", JOINT)
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_a_shell_within_a_job_is_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    check_launcher()


def test_one_process_of_a_verb_that_is_one_process_is_enough(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("wdl.cli.time.sleep", lambda _: None)
    monkeypatch.setenv("RANK", "1")
    printed = fails(capsys, "compare", "a", "b")
    assert "process 1: wdl compare is one process, and was started as several" in printed
