"""A pipeline's YAML becomes steps, or one line for everything that is wrong with it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CONFIGS

from wdl.errors import UserError
from wdl.pipeline.stages import Step, expand

ROUNDS = """
- {name: base, command: tiny}
- {name: sft, command: tiny}
- rounds: 3
  first: {weak: "{base}/model", strong: "{sft}/model"}
  next: {weak: "{strong}", strong: "{joint}/model"}
  stages:
    - name: score
      command: score --model {strong} --key entropy_{round} --out {score}/e
    - name: joint
      command: fit --name {stage} --model.weak {weak} --model.strong {strong} {score}/e
      retries: 2
- name: grades
  command: evaluate --model {joint}
"""


def steps(text: str) -> list[Step]:
    return expand(yaml.safe_load(text), Path("/here"), Path("/root"))


def faults(stages: list[Any]) -> list[str]:
    with pytest.raises(UserError) as error:
        expand(stages, Path("/here"), Path("/root"))
    return list(error.value.faults)


def test_names_stand_for_folders() -> None:
    (step,) = steps("- {name: a, command: 'tiny --x {here}/b,c={root}/d --folder \"{a} {stage}\"'}")
    assert step == Step("a", ("tiny", "--x", "/here/b,c=/root/d", "--folder", "/root/a a"))


def test_weak_is_what_the_strong_branch_of_the_round_before_started_from() -> None:
    by_name = {step.name: step.words for step in steps(ROUNDS)}
    assert list(by_name)[2:] == [f"{n}-{k}" for k in (1, 2, 3) for n in ("score", "joint")] + [
        "grades"
    ]
    pairs = [by_name[f"joint-{k}"][4:7:2] for k in (1, 2, 3)]
    assert pairs == [
        ("/root/base/model", "/root/sft/model"),
        ("/root/sft/model", "/root/joint-1/model"),
        ("/root/joint-1/model", "/root/joint-2/model"),
    ]
    assert by_name["joint-2"][1:3] == ("--name", "joint-2")
    assert by_name["score-3"][2:] == (
        *("/root/joint-2/model", "--key", "entropy_3", "--out", "/root/score-3/e"),
    )
    assert by_name["grades"] == ("evaluate", "--model", "/root/joint-3")


def test_more_rounds_leave_those_before_as_they_are() -> None:
    fewer, more = steps(ROUNDS.replace("rounds: 3", "rounds: 2")), steps(ROUNDS)
    commands = [[(step.name, step.words) for step in some] for some in (fewer, more)]
    assert commands[0][:-1] == commands[1][: len(fewer) - 1]


def test_retries_are_those_of_the_stage() -> None:
    assert [step.retries for step in steps(ROUNDS)] == [0, 0, 0, 2, 0, 2, 0, 2, 0]


def test_a_launcher_is_split_and_filled_as_a_command_is() -> None:
    (step,) = steps("- {name: a, command: tiny, launcher: 'sbatch --wait {here}/job.sh {stage}'}")
    assert step == Step("a", ("tiny",), launcher=("sbatch", "--wait", "/here/job.sh", "a"))


A = {"name": "a", "command": "tiny"}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "stages: there is none"),
        (["tiny"], "item 1: 'tiny' is no stage"),
        ([{"name": "a", "comand": "tiny"}], "stage a: there is no key comand; choose from command"),
        ([{"name": "a"}], "stage a: the key command is missing"),
        ([{"command": "tiny"}], "item 1: the key name is missing"),
        ([A, A], "stage a: name: a is there twice"),
        ([{**A, "name": "../a"}], "item 1: name: '../a' cannot be used"),
        ([{**A, "name": "root"}], "item 1: name: 'root' cannot be used"),
        ([{**A, "name": 3}], "item 1: name: 3 cannot be used"),
        ([{**A, "command": ""}], "stage a: command: must be a wdl command line"),
        ([{**A, "command": "tiny 'a"}], "stage a: command: No closing quotation"),
        ([{**A, "command": "tiny {b}"}], "stage a: command: {b} is neither here, root nor"),
        ([{**A, "launcher": ["srun"]}], "stage a: launcher: must be a program and its options"),
        ([{**A, "launcher": "srun {b}"}], "stage a: launcher: {b} is neither here, root nor"),
        ([{**A, "retries": -1}], "stage a: retries: -1 must be"),
        ([{**A, "retries": "2"}], "stage a: retries: '2' must be"),
        ([{"rounds": 0, "stages": [A]}], "item 1: rounds: 0 must be a number from 1 up"),
        ([{"rounds": True, "stages": [A]}], "item 1: rounds: True must be"),
        ([{"rounds": 1, "stages": []}], "item 1: stages: must be a list"),
        ([{"rounds": 1}], "item 1: the key stages is missing"),
        ([{"rounds": 1, "stages": [{"rounds": 1}]}], "item 1, stage 1: there is no key rounds"),
        ([{"rounds": 1, "first": {"b": "c"}, "stages": [A]}], "first and next: both must give"),
        ([{"rounds": 1, "first": {"b": 1}, "next": {"b": 2}, "stages": [A]}], "a text"),
        ([A, {"rounds": 1, "first": {"a": "b"}, "next": {"a": "b"}, "stages": [A]}], "'a' cannot"),
        ([{"rounds": 1, "first": {"b": "{c}"}, "next": {"b": "d"}, "stages": [A]}], "first: {c}"),
        ([{"rounds": 1, "first": {"b": "c"}, "next": {"b": "{d}"}, "stages": [A]}], "next: {d}"),
        ([{"rounds": 2, "stages": [A]}, {**A, "name": "a-2"}], "name: a-2 is there twice"),
        ([{"rounds": 2, "stages": [A]}, {**A, "name": "b", "command": "{round}"}], "{round} is"),
    ],
)
def test_one_line_says_what_is_wrong(stages: list[Any], message: str) -> None:
    (line,) = faults(stages)
    assert message in line


def test_all_faults_are_named_once() -> None:
    group = {"rounds": 3, "stages": [{"name": "b", "command": "{c}"}]}
    assert len(faults([{"name": "a"}, group, {**A, "name": "b", "retries": 0}])) == 3


def test_braces_of_other_things_are_left_alone() -> None:
    (step,) = expand([{**A, "command": """fit --x '{"a": 1}'"""}], Path("/"), Path("/"))
    assert step.words == ("fit", "--x", '{"a": 1}')


STEPS_SHIPPED = {
    "pipeline": 5,
    "pipeline-rounds": 5,
    "pipeline-self-training": 3 * 5 + 3,
    "pipeline-self-training-8b": 5 * 6 + 1,
    "pipeline-rejection-sampling": 2 * 4 + 1,
    "pipeline-own-answers": 4,
    "pipeline-vision": 14,
}


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("pipeline*.yaml")), ids=lambda f: f.name)
def test_what_the_project_ships(file: Path) -> None:
    found = expand(yaml.safe_load(file.read_text())["stages"], CONFIGS, Path("/root"))
    assert len(found) == STEPS_SHIPPED[file.stem]
