"""The documentation's examples, run as they stand there."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import CONFIGS, REPOSITORY
from pyarrow import parquet
from safetensors.torch import load_file

BLOCK = re.compile(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SMALL = [
    *("--trainer.max_steps", "8", "--data.micro_batch_size", "8", "--data.batch_size", "16"),
    *("--evaluation.benchmark", "null", "--evaluation.sft_control", "false"),
    *("--checkpoint.every_n_train_steps", "4", "--checkpoint.save_top_k", "-1"),
]


@pytest.fixture
def own_method(tmp_path: Path) -> list[str]:
    """The files of docs/own-method.md in the current folder, and the options that use them."""
    text = (REPOSITORY / "docs" / "own-method.md").read_text()
    files = dict(BLOCK.findall(text))
    assert set(files) == {"mine.py", "mine.yaml"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    return ["--config", str(CONFIGS / "joint.yaml"), "--config", "mine.yaml", "--name", "mine"]


def wdl(*args: str) -> str:
    # the console script, which does not look for modules in the current folder by itself
    command = [str(Path(sys.executable).with_name("wdl")), *args]
    child = subprocess.run(command, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    return child.stdout


def test_a_method_of_ones_own_trains_resumes_and_exports(own_method: list[str]) -> None:
    wdl("fit", *own_method, *SMALL)
    first = Path("runs/mine/version_0")
    weights = load_file(first / "strong" / "model.safetensors")
    settings = yaml.safe_load((first / "config.yaml").read_text())
    assert settings["model"]["init_args"]["first"] == 0.3
    assert settings["data"]["init_args"]["power"] == 1.5
    assert "| first | 0.3 |" in (first / "strong" / "README.md").read_text()

    half = next(first.glob("checkpoints/*step=4.ckpt"))
    wdl("fit", *own_method, *SMALL, "--ckpt_path", str(half))
    resumed = load_file("runs/mine/latest/strong/model.safetensors")
    assert Path("runs/mine/latest/strong").resolve().parent.name == "version_1"
    assert all(resumed[name].equal(weight) for name, weight in weights.items())

    whole = next(first.glob("checkpoints/*step=8.ckpt"))
    wdl("export", "--ckpt", str(whole), "--out", "exported")
    exported = load_file("exported/model.safetensors")
    assert all(exported[name].equal(weight) for name, weight in weights.items())


def test_the_loss_and_the_weights_of_ones_own_are_used(own_method: list[str]) -> None:
    wdl("fit", *own_method, *SMALL)
    wdl("fit", *own_method[:2], *SMALL, "--name", "theirs")
    ours, theirs = (
        load_file(f"runs/{name}/latest/strong/model.safetensors") for name in ("mine", "theirs")
    )
    assert not all(ours[name].equal(weight) for name, weight in theirs.items())
    assert "--model.first" in wdl("fit", "--model.help", "mine.GrowingShare")


def test_questions_for_reinforcement_learning() -> None:
    text = (REPOSITORY / "docs" / "reinforcement-learning.md").read_text()
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    commands = blocks[0][1].splitlines()
    assert [line.split()[1] for line in commands] == ["sample", "grade", "prompts"]
    small = Path("train.jsonl")
    rows = (CONFIGS / "tiny" / "train.jsonl").read_text().splitlines(keepends=True)
    small.write_text("".join(rows[:30]))
    for line in commands:
        words = line.replace("configs/tiny/train.jsonl", str(small)).split()[1:]
        wdl(*(word.replace("configs/", f"{CONFIGS}/") for word in words))
    exec(next(code for language, code in blocks if language == "python"))
    mixed = parquet.read_table("round-1/mixed.parquet").to_pylist()
    assert 0 < len(mixed) < 30
    assert all(0 < row["extra_info"]["right"] < 8 for row in mixed)


def test_the_files_of_the_page_on_evaluation(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (REPOSITORY / "docs" / "evaluation.md").read_text()
    for name, content in BLOCK.findall(text):
        (tmp_path / name).write_text(content)
    rows = re.search(r"^```json\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert rows is not None
    (tmp_path / "mine.jsonl").write_text(rows[1])
    worked = [f'{{"question": "{n}+1?", "answer": "{n + 1}"}}\n' for n in range(4)]
    (tmp_path / "worked.jsonl").write_text("".join(worked))
    monkeypatch.chdir(tmp_path)
    options = ["--benchmarks", "mine.yaml", "--protocol", "protocol.yaml", "--out", "out"]
    (tmp_path / "protocol.yaml").write_text(
        (tmp_path / "protocol.yaml").read_text().replace("2048", "8")
    )
    template = pair[0] / "chat_template.jinja"
    template.write_text(template.read_text() + "{% if enable_thinking is false %}{% endif %}")
    wdl("evaluate", "--model", f"m={pair[0]}", *options)
    record = json.loads((tmp_path / "out/m/mine.json").read_text())
    assert record["results"]["answers"] == 8
    assert record["inputs"]["protocol"]["template"] == {"enable_thinking": False}
