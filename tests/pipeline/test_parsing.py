"""All commands are parsed before one runs: what they read, and what is wrong with them."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import CONFIGS

from wdl.errors import UserError
from wdl.pipeline.inputs import Fingerprints, parse
from wdl.pipeline.stages import Step


def test_inputs_and_faults_of_commands(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("data: {path: own.jsonl, selection: {entropies: e.jsonl}}")
    weak, held_out = CONFIGS / "tiny" / "weak", CONFIGS / "tiny" / "heldout.jsonl"
    joint = f"--config {CONFIGS}/joint.yaml"
    fit, typo, score, evaluate, verb, nothing = parse(
        [
            command.split()
            for command in (
                f"fit {joint} --config own.yaml --model.weak Qwen/Qwen3-4B --runs out",
                f"fit {joint} --data.pth own.jsonl",
                f"score --model {weak} --data own.jsonl --out o.jsonl",
                f"evaluate --model a={weak},b=x/y --benchmarks gsm8k --data {held_out} --out o",
                "train",
                "tiny --help",
            )
        ]
    )
    assert fit["inputs"] == {
        "model.strong": str(CONFIGS / "tiny" / "strong"),
        "model.weak": "Qwen/Qwen3-4B",
        "data.path": str(tmp_path / "own.jsonl"),
        "data.strong": str(CONFIGS / "tiny" / "strong"),
        "data.weak": "Qwen/Qwen3-4B",
        "data.selection.entropies": str(tmp_path / "e.jsonl"),
        "evaluation.data": str(held_out),
    }
    assert fit["folder"] == str(tmp_path / "out" / "joint")
    assert (
        "data.pth: there is no such key (data.path?)" in typo["faults"][0]
        and "see wdl fit --help" in typo["faults"][0]
    )
    assert score["inputs"] == {"model": str(weak), "data": str(tmp_path / "own.jsonl")}
    assert evaluate["inputs"] == {
        "model": f"a={weak},b=x/y",
        "data": str(held_out),
        "by": "rules",
    }
    assert "train: there is no such verb" in verb["faults"][0]
    assert "runs nothing" in nothing["faults"][0]


def test_what_is_known_is_not_parsed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Step("a", ("compare", "x", "y"))
    fingerprints = Fingerprints(Path("memory"))
    assert fingerprints.read_by([step], tmp_path) == [{}]
    fingerprints.save()
    monkeypatch.setattr("wdl.pipeline.inputs.parse", lambda _: pytest.fail("parsed again"))
    assert Fingerprints(Path("memory")).read_by([step], tmp_path) == [{}]


def test_rows_are_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a stage is not parsed again when it has written what its command names."""
    rows, settings = tmp_path / "rows.jsonl", tmp_path / "settings.yaml"
    step = Step("a", ("compare", str(rows), str(settings)))
    parsed: list[Sequence[str]] = []

    def noted(commands: Sequence[Sequence[str]]) -> list[dict]:
        parsed.extend(commands)
        return [{"inputs": {}}] * len(commands)

    monkeypatch.setattr("wdl.pipeline.inputs.parse", noted)
    fingerprints = Fingerprints(Path("memory"))
    for written, expected in ((None, 1), (rows, 1), (settings, 2)):
        if written:
            written.write_text("{}\n")
        fingerprints.read_by([step], tmp_path)
        assert len(parsed) == expected


def test_a_fault_names_its_stage(tmp_path: Path) -> None:
    steps = [Step("a", ("compare", "x", "y")), Step("b", ("train",)), Step("c", ("compare",))]
    with pytest.raises(UserError) as error:
        Fingerprints(Path("memory")).read_by(steps, tmp_path)
    assert [fault.partition(": ")[0] for fault in error.value.faults] == ["stage b", "stage c"]


def test_a_fit_writes_to_the_folder_of_its_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [Step("here", ("fit",)), Step("elsewhere", ("fit",))]
    parsed = {"inputs": {}, "folder": str(tmp_path / "here")}
    monkeypatch.setattr("wdl.pipeline.inputs.parse", lambda commands: [parsed] * len(commands))
    with pytest.raises(UserError) as error:
        Fingerprints(Path("memory")).read_by(steps, tmp_path)
    (fault,) = error.value.faults
    assert fault.startswith(f"stage elsewhere: it would write to {tmp_path}/here")
