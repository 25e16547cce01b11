"""``wdl evaluate`` from the command to the files, killed and resumed."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wdl.cli import main
from wdl.errors import UserError
from wdl.evaluation.run import evaluate
from wdl.evaluation.sources import Sources

LENGTHS = (3, 9, 1, 5, 2, 7, 4, 8, 6, 1, 2, 3)


@pytest.fixture
def data(write_rows: Callable[..., Path]) -> Path:
    rows = [{"instruction": "1+1? " * n, "output": "2", "answer": "2"} for n in LENGTHS]
    return write_rows(rows, "sums.jsonl")


@pytest.fixture
def protocol(tmp_path: Path) -> Path:
    file = tmp_path / "short.yaml"
    file.write_text("name: short\nmax_new_tokens: 12\nsamples: 2\ntemperature: 1.0\n")
    return file


def command(pair: tuple[Path, Path], data: Path, protocol: str | Path, out: str) -> list[str]:
    strong, weak = pair
    return [
        *("evaluate", "--model", f"strong={strong},weak={weak}", "--benchmarks", "arithmetic"),
        *("--data", str(data), "--protocol", str(protocol), "--out", out),
    ]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_writes_summary_answers_and_views(
    pair: tuple[Path, Path], data: Path, protocol: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(command(pair, data, protocol, "out"))
    assert set(contents(Path("out"))) == {
        *("summary.json", "summary.csv", "summary.svg", "report.html"),
        *("strong/arithmetic.json", "strong/arithmetic.jsonl"),
        *("weak/arithmetic.json", "weak/arithmetic.jsonl"),
    }
    lines = Path("out/strong/arithmetic.jsonl").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    assert [(a["id"], a["sample"]) for a in answers] == [
        (str(n), s) for n in range(len(LENGTHS)) for s in range(2)
    ]
    assert {a["reference"] for a in answers} == {"2"}
    summary = json.loads(Path("out/summary.json").read_text())
    record = summary["models"]["weak"]["arithmetic"]
    assert record == json.loads(Path("out/weak/arithmetic.json").read_text())
    assert record["results"]["answers"] == 2 * len(LENGTHS)
    assert {"accuracy", "interval", "pass@1", "pass@2", "majority"} <= record["results"].keys()
    assert record["inputs"]["protocol"]["name"] == "short"
    assert record["inputs"]["engine"]["name"] == "transformers"
    hashes = ("model_sha256", "data_sha256", "prompt_sha256")
    assert all(len(record["inputs"][key]) == 64 for key in hashes)
    assert "protocol short v1" in capsys.readouterr().out


def test_what_is_done_is_not_done_again(
    pair: tuple[Path, Path],
    data: Path,
    protocol: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(command(pair, data, protocol, "out"))
    assert "already" not in capsys.readouterr().out
    before = contents(Path("out"))

    monkeypatch.delattr("wdl.generation.transformers_engine.model_class")
    main(command(pair, data, protocol, "out"))
    assert contents(Path("out")) == before
    assert capsys.readouterr().out.count("graded already") == 2


def test_answers_are_graded_again_without_generating_them(
    pair: tuple[Path, Path], data: Path, protocol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(command(pair, data, protocol, "out"))
    before = contents(Path("out"))
    monkeypatch.delattr("wdl.generation.transformers_engine.model_class")
    monkeypatch.setattr("wdl.grading.grader.RULES_VERSION", 1000)
    monkeypatch.setattr("wdl.grading.grader.find_answer", lambda *_: "2")  # all are right now
    with pytest.raises(SystemExit, match="2"):
        main(command(pair, data, protocol, "out"))
    assert contents(Path("out")) == before
    main([*command(pair, data, protocol, "out"), "--regrade", "true"])
    answers = [
        json.loads(line) for line in contents(Path("out"))["weak/arithmetic.jsonl"].splitlines()
    ]
    assert {answer["status"] for answer in answers} == {"correct"}
    old = [json.loads(line) for line in before["weak/arithmetic.jsonl"].splitlines()]
    assert [a["completion"] for a in answers] == [a["completion"] for a in old]
    record = json.loads(Path("out/weak/arithmetic.json").read_text())
    assert record["inputs"]["grader"]["rules"] == 1000
    assert record["results"]["accuracy"] == 1


def test_results_under_another_protocol_are_not_mixed(
    pair: tuple[Path, Path], data: Path, protocol: Path
) -> None:
    main(command(pair, data, protocol, "out"))
    before = contents(Path("out"))
    protocol.write_text(protocol.read_text() + "version: 2\n")
    with pytest.raises(UserError, match=r"made with another protocol; .* choose another --out"):
        evaluate(
            model=Sources(f"strong={pair[0]}"),
            benchmarks="arithmetic",
            data=Sources(data),
            protocol=str(protocol),
            out="out",
        )
    assert contents(Path("out")) == before


KILLER = """
import os, random, signal, sys, time
import wdl.generation.engines, wdl.evaluation.jobs, wdl.evaluation.views, rich.table
import wdl.metrics.per_problem
from wdl.cli import main

def start(out):
    child = os.fork()
    if child == 0:
        main([*sys.argv[1:], "--out", out])
        os._exit(0)
    return child

began = time.monotonic()
assert os.waitpid(start("undisturbed"), 0)[1] == 0
duration = time.monotonic() - began
random.seed(7)
for _ in range(10):
    child = start("killed")
    time.sleep(random.uniform(0, duration))
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] in (0, signal.SIGKILL)
assert os.waitpid(start("killed"), 0)[1] == 0
"""


def test_killed_ten_times_it_gives_the_same_files(
    pair: tuple[Path, Path], data: Path, protocol: Path
) -> None:
    """At random moments, from before the first answer to after the last."""
    protocol.write_text(protocol.read_text().replace("12", "100"))
    options = [*command(pair, data, protocol, "out"), "--model", f"strong={pair[0]}"]
    subprocess.run([sys.executable, "-c", KILLER, *options], check=True, capture_output=True)
    assert contents(Path("killed")) == contents(Path("undisturbed"))


def test_a_failing_engine_costs_its_model_alone(
    pair: tuple[Path, Path],
    data: Path,
    protocol: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from wdl.generation.transformers_engine import TransformersEngine
    from wdl.system.child import ChildFailure

    whole = TransformersEngine.generate

    def fail(self: TransformersEngine, *args: Any) -> Any:
        parts = whole(self, *args)
        yield next(parts)
        raise ChildFailure("killed by SIGSEGV")

    def fail_once(self: TransformersEngine, *args: Any) -> Any:
        monkeypatch.setattr(TransformersEngine, "generate", whole)
        return fail(self, *args)

    monkeypatch.setattr(TransformersEngine, "generate", fail_once)
    with pytest.raises(SystemExit) as exit_:
        main(command(pair, data, protocol, "out"))
    assert exit_.value.code == 2
    assert "strong: the engine failed (killed by SIGSEGV)" in capsys.readouterr().err
    summary = json.loads(Path("out/summary.json").read_text())
    assert summary["failures"] == {"strong": "the engine failed (killed by SIGSEGV)"}
    assert set(summary["models"]) == {"weak"}
    assert Path("out/strong/arithmetic.journal.jsonl").stat().st_size > 1000
    main(command(pair, data, protocol, "out"))
    main(command(pair, data, protocol, "undisturbed"))
    assert contents(Path("out")) == contents(Path("undisturbed"))


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--model", "nowhere"], "--model: there is no folder nowhere;"),
        (["--model", "./nope"], "--model: there is no folder nope;"),
        (["--model", "../x/y"], "--model: there is no folder"),
        (["--model", "~/no-such-model"], "--model: there is no folder"),
        (["--model", "a=."], "holds no config.json"),
        (["--model", "a=.,a=."], "a second model 'a'"),
        (["--data", "nowhere.json"], "nowhere.json: there is no such file"),
        (["--protocol", "slow"], "--protocol slow: choose from"),
        (["--benchmarks", "gsm9k"], "--benchmarks gsm9k: choose from"),
        (["--data", "gsm8k=x.json"], "--data gsm8k=...: choose from arithmetic"),
        (["--engine", "vllm", "--vllm.python", "nowhere"], "nowhere does not start"),
        (["--engine", "vllm"], "has no vLLM"),
        (["--engine", "abacus"], "abacus"),
    ],
)
def test_bad_input_ends_before_any_model_is_loaded(
    pair: tuple[Path, Path],
    data: Path,
    options: list[str],
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as exit_:
        main([*command(pair, data, "quick", "out"), *options])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert fault in error
    assert "Traceback" not in error
    assert not Path("out").exists()


def test_an_answer_longer_than_the_context_is_refused(
    pair: tuple[Path, Path], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(command(pair, data, "paper", "out"))
    assert "and 4096 new ones need" in capsys.readouterr().err


def test_paths_in_a_yaml_are_meant_from_its_folder(
    pair: tuple[Path, Path], data: Path, protocol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data.parent
    (folder / "model").symlink_to(pair[0])
    (folder / "options.yaml").write_text(
        f"model: m=model\ndata: {data.name}\nprotocol: {protocol}\n"
        "benchmarks: arithmetic\nout: out\n"
    )
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    main(["evaluate", "--config", "../options.yaml"])
    assert (elsewhere / "out/m/arithmetic.json").is_file()


@pytest.mark.parametrize(
    ("name", "size", "fault"),
    [
        ("config.json", 10, "its configuration cannot be read"),
        ("model.safetensors", 100, "has a damaged model.safetensors"),
        ("model.safetensors", -4, "has a damaged model.safetensors"),
        ("chat_template.jinja", None, "the tokenizer has no chat template"),
    ],
)
def test_a_damaged_model_is_one_line(
    pair: tuple[Path, Path],
    data: Path,
    name: str,
    size: int | None,
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damaged = Path("damaged")
    shutil.copytree(pair[0], damaged)
    whole = (damaged / name).read_bytes()
    (damaged / name).unlink()
    if size is not None:
        (damaged / name).write_bytes(whole[:size])
    with pytest.raises(SystemExit) as exit_:
        main([*command(pair, data, "quick", "out"), "--model", "damaged"])
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert fault in line


def test_a_folder_whose_name_has_an_equals_sign(
    pair: tuple[Path, Path], data: Path, protocol: Path
) -> None:
    """As those of exports have: step=8."""
    exports = Path("exports")
    exports.mkdir()
    shutil.copytree(pair[0], exports / "step=8")
    options = command(pair, data, protocol, "out")
    main([*options, "--model", "exports/step=8,named=exports/step=8"])
    assert {path.name for path in Path("out").iterdir() if path.is_dir()} == {"step=8", "named"}
