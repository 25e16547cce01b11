"""Every YAML that the project ships is parsed against the code."""

from pathlib import Path

import pytest
import yaml
from conftest import CONFIGS

from wdl.cli import main

BASES = ["joint.yaml", "sft.yaml"]
NOT_A_RUN = ["pipeline.yaml", "pipeline-rounds.yaml"]
OVERLAYS = sorted(
    str(file.relative_to(CONFIGS))
    for file in (*CONFIGS.glob("*.yaml"), *CONFIGS.glob("deepspeed/*.yaml"))
    if file.name not in BASES + NOT_A_RUN
)


def printed(capsys: pytest.CaptureFixture[str], *configs: str, verb: str = "fit") -> dict:
    flags = [flag for config in configs for flag in ("--config", str(CONFIGS / config))]
    with pytest.raises(SystemExit) as end:
        main([verb, *flags, "--print_config"])
    assert end.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("verb", ["fit", "validate"])
def test_bases(base: str, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = printed(capsys, base, verb=verb)
    assert config["name"] == Path(base).stem
    assert config["trainer"]["strategy"]["class_path"] == "wdl.training.deepspeed.DeepSpeed"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_change_neither_lists_nor_classes(
    overlay: str, capsys: pytest.CaptureFixture[str]
) -> None:
    base, changed = printed(capsys, "joint.yaml"), printed(capsys, "joint.yaml", overlay)
    assert changed != base
    assert changed["trainer"]["callbacks"] == base["trainer"]["callbacks"]
    for key in ("strategy",):
        assert changed["trainer"][key]["class_path"] == base["trainer"][key]["class_path"]


def test_defaults_of_the_method(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed(capsys, "joint.yaml")
    assert config["model"]["init_args"]["lam"] == 0.5
    assert config["model"]["init_args"]["train_weak"] is True
    assert config["data"]["init_args"]["selection"]["weights"] == "normalised"
    assert config["data"]["init_args"]["selection"]["draw"] == "with_replacement"


def test_paths_in_a_yaml_are_meant_from_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    config = printed(capsys, "joint.yaml")
    assert config["model"]["init_args"]["strong"] == str(CONFIGS / "tiny" / "strong")
    assert config["data"]["init_args"]["path"] == str(CONFIGS / "tiny" / "train.jsonl")


def test_paths_on_the_command_line_are_meant_from_the_current_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        main(["fit", f"--config={CONFIGS}/joint.yaml", "--data.path=mine.jsonl", "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["data"]["init_args"]["path"] == str(tmp_path / "mine.jsonl")
