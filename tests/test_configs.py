"""Every YAML that the project ships is parsed against the code."""

from pathlib import Path

import pytest
import yaml
from conftest import CONFIGS

from wdl.cli import main
from wdl.config.packaged import find_config
from wdl.config.parser import check_syntax, with_packaged
from wdl.data.encoding import with_system_prompt
from wdl.errors import UserError
from wdl.generation.protocols import find_protocol

BASES = ["joint.yaml", "sft.yaml", "dpo.yaml"]
NOT_A_RUN = sorted(file.name for file in CONFIGS.glob("pipeline*.yaml"))
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
    method = "dpo.yaml" if "dpo" in overlay else "joint.yaml"
    base, changed = printed(capsys, method), printed(capsys, method, overlay)
    assert changed != base
    assert changed["trainer"]["callbacks"] == base["trainer"]["callbacks"]
    for key in ("strategy",):
        assert changed["trainer"][key]["class_path"] == base["trainer"][key]["class_path"]


def test_the_papers_recipe_inherits_nothing_from_the_tiny_one_by_chance(
    capsys: pytest.CaptureFixture[str],
) -> None:
    overlay = yaml.safe_load((CONFIGS / "qwen3-4b.yaml").read_text())
    for base in BASES:
        config = printed(capsys, base, "qwen3-4b.yaml")
        optimizer = config["model"]["init_args"]["optimizer"]["init_args"]
        model = yaml.safe_load((CONFIGS / base).read_text())["model"]
        tiny = model.get("init_args", model)["optimizer"]["init_args"]
        assert tiny.keys() <= overlay["model"]["optimizer"]["init_args"].keys()
        assert optimizer["weight_decay"] == 0
        trained_with = config["data"]["init_args"]["system_prompt"]
        question = [{"role": "user", "content": "?"}]
        opening = with_system_prompt(question, trained_with)[0]["content"]
        assert opening == find_protocol(config["evaluation"]["protocol"]).system_prompt


@pytest.mark.parametrize("name", ["weak", "init_args.weak", "strong", "reference"])
def test_what_is_filled_in_is_not_overwritten_without_a_word(name: str, tmp_path: Path) -> None:
    config = str(CONFIGS / "dpo.yaml")
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", config, f"--data.{name}=x", "--print_config"])
    assert end.value.code == 2
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"data": {name.split(".")[-1]: "x"}}))
    with pytest.raises(SystemExit) as end:
        main(["fit", "--config", config, "--config", str(overlay), "--print_config"])
    assert end.value.code == 2


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


@pytest.mark.parametrize("word", ["joint.yaml", "configs/joint.yaml"])
def test_where_there_is_no_such_file_it_is_the_packaged_one(
    word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["--name", word, "--config", word], [f"--config={word}"]):
        found = with_packaged(words)
        assert [*found[:-1], found[-1].replace(str(CONFIGS / "joint.yaml"), word)] == words
        assert found[-1].endswith(str(CONFIGS / "joint.yaml"))
        assert "comes with wdl" in capsys.readouterr().err
    (tmp_path / "configs").mkdir()
    (tmp_path / word).touch()
    assert with_packaged(["--config", word]) == ["--config", word]
    assert capsys.readouterr().err == ""


def test_overlays_are_found_too() -> None:
    assert find_config(Path("deepspeed/zero3.yaml")) == CONFIGS / "deepspeed" / "zero3.yaml"
    assert find_config(CONFIGS / "none.yaml") == CONFIGS / "none.yaml"
    assert find_config(Path("deepspeed")) == Path("deepspeed")


def test_a_missing_file_is_told_which_may_be_meant() -> None:
    for word, alike in (("configs/jiont.yaml", "joint.yaml"), ("zzz", "deepspeed/zero1.yaml, ")):
        with pytest.raises(UserError, match=f"--config {word}: there is no such .*{alike}"):
            check_syntax([Path(word)])
