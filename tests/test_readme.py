"""The README's commands are the real ones."""

import json
import re
import shlex

import pytest
import yaml
from conftest import REPOSITORY

from wdl.cli import FUNCTIONS, VERBS, main

README = (REPOSITORY / "README.md").read_text()
COMMANDS = [
    shlex.split(command.replace("\\\n", " "), comments=True)
    for command in re.findall(r"^\$ ((?:.*\\\n)*.*)$", README, flags=re.MULTILINE)
]
FITS = [words[1:] for words in COMMANDS if words[0] == "wdl" and words[1] not in FUNCTIONS]


def test_the_two_commands_are_in_the_makefile() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    targets = [words[1] for words in COMMANDS if words[0] == "make"]
    assert targets == ["demo", "test"]
    assert all(f"\n{target}:" in makefile for target in targets)
    assert "fit --config configs/joint.yaml --name demo" in makefile


@pytest.mark.parametrize("words", FITS, ids=" ".join)
def test_every_run_parses(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    with pytest.raises(SystemExit) as end:
        main([*words, "--print_config"])
    assert end.value.code == 0


def test_who_trains_on_own_data_is_not_graded_on_the_demos(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    own = [words for words in FITS if "mine.jsonl" in words]
    assert any("configs/own-data.yaml" in words for words in own) and len(own) >= 3
    for words in own:
        with pytest.raises(SystemExit):
            main([*words, "--print_config"])
        config = yaml.safe_load(capsys.readouterr().out)
        assert config["evaluation"]["benchmark"] is None
        assert config["evaluation"]["sft_control"] is False
        assert config["data"]["init_args"]["val_fraction"] > 0


def test_every_verb_is_mentioned() -> None:
    assert len(FITS) >= 5
    missing = [verb for verb in VERBS if f"wdl {verb}" not in README and f"`{verb}`" not in README]
    assert missing in ([], ["tiny"])  # the recipe's own verb


def test_the_dockerfile_is_the_makefile_s() -> None:
    makefile, docker = ((REPOSITORY / name).read_text() for name in ("Makefile", "Dockerfile"))
    packages = r"--no-install-recommends\s*\\?\s*([a-z\d -]+?)\s*(?:>|\\)"
    (ours,), (theirs,) = (
        re.findall(packages, text) for text in (docker, makefile.replace("\\\n", ""))
    )
    assert ours.split() == theirs.split() and "chromium" in ours
    assert re.findall(r"\bmake (\w+)$", docker, re.MULTILINE) == ["demo", "test"]
    (command,) = re.findall(r"^CMD (.*)$", docker, re.MULTILINE)
    assert json.loads(command) == ["make", "demo"]
    (files,) = re.findall(r"^RUN make (.*)$", docker, re.MULTILINE)
    names = {"$(VENV)": ".venv", "$(VLLM)": ".venv-vllm"}
    for variable, folder in names.items():
        assert f"\n{variable}/installed:" in makefile and f"{folder}/installed" in files.split()
