"""Keys beside a command: what they mean, and one line for everything that is wrong with them."""

from pathlib import Path
from typing import Any

import pytest

from wdl.errors import UserError
from wdl.pipeline.stages import expand
from wdl.system.outcome import VARIABLE

A = {"name": "a", "command": "tiny"}


def test_what_they_mean() -> None:
    stage = {
        **A,
        "retries": {"count": 2, "wait": 0.5},
        "on_failure": "skip",
        "environment": {"CUDA_VISIBLE_DEVICES": "{round}", "OUT": "{a}"},
        "launcher": "srun",
    }
    _, step = expand([{"rounds": 2, "stages": [stage]}], Path("/here"), Path("/root"))
    assert (step.retries, step.wait, step.skippable) == (2, 0.5, True)
    assert step.environment == {"CUDA_VISIBLE_DEVICES": "2", "OUT": "/root/a-2"}
    shown = "CUDA_VISIBLE_DEVICES=2 OUT=/root/a-2 srun wdl tiny"
    assert (step.stage, str(step.round), step.shown(step.words)) == ("a", "round 2 of 2", shown)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"retries": None}, "retries: None must be a number from 0 up, or {count: 2, wait: 30}"),
        ({"retries": True}, "retries: True must be"),
        ({"retries": 1.5}, "retries: 1.5 must be"),
        ({"retries": {}}, "retries: {} must be"),
        ({"retries": {"count": 1, "delay": 3}}, "retries: {'count': 1, 'delay': 3} must be"),
        ({"retries": {"count": 1, "wait": -1}}, "retries: {'count': 1, 'wait': -1} must be"),
        ({"retries": {"count": 1, "wait": float("inf")}}, "'wait': inf} must be"),
        ({"retries": {"count": 1, "wait": float("nan")}}, "'wait': nan} must be"),
        ({"on_failure": "ignore"}, "on_failure: 'ignore' must be stop or skip"),
        ({"on_failure": True}, "on_failure: True must be stop or skip"),
        ({"on_failure": ["skip"]}, "on_failure: ['skip'] must be stop or skip"),
        ({"environment": "A=1"}, "environment: 'A=1' must give names of variables a text"),
        ({"environment": {"GPUS": 0}}, "environment: GPUS: 0 must be a text; put it in quotes"),
        ({"environment": {"GPUS": [0, 1]}}, "environment: GPUS: [0, 1] must be a text"),
        ({"environment": {"GPUS": None}}, "environment: GPUS: None must be a text"),
        ({"environment": {1: "1"}}, "environment: 1 cannot be the name of a variable"),
        ({"environment": {"A=B": "1"}}, "environment: 'A=B' cannot be the name"),
        ({"environment": {VARIABLE: "1"}}, f"environment: '{VARIABLE}' cannot be the name"),
        ({"environment": {"A": "1\0"}}, "environment: 'A': must be free of zero characters"),
        ({"environment": {"A": "{b}"}}, "environment: {b} is neither here, root nor"),
        ({"environment": {"A": "{all:a}"}}, "environment: {all:NAME} can be a word of a command"),
        ({"from_round": 0}, "from_round: 0 must be one of the rounds, 1 to 2"),
        ({"from_round": 3}, "from_round: 3 must be one of the rounds, 1 to 2"),
        ({"from_round": "2"}, "from_round: '2' must be one of the rounds, 1 to 2"),
        ({"from_round": True}, "from_round: True must be one of the rounds"),
        ({"from_rounds": 2}, "there is no key from_rounds; choose from command"),
        ({"command": "compare {all:b}"}, "command: {all:b} must name one stage of rounds"),
        ({"command": "compare {all:a}"}, "command: {all:a} must name one stage of rounds"),
        ({"command": "compare {all:}"}, "command: {all:} must name one stage of rounds that comes"),
        ({"launcher": "srun {all:a}"}, "launcher: {all:a} must name one stage of rounds"),
    ],
)
def test_one_line_says_what_is_wrong(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        expand([{"rounds": 2, "stages": [{**A, **keys}]}], Path("/here"), Path("/root"))
    (line,) = error.value.faults
    assert line.startswith("stage a: ") and message in line


def test_rounds_belong_to_groups() -> None:
    with pytest.raises(UserError, match="stage a: from_round: the stage is in no group"):
        expand([{**A, "from_round": 1}], Path("/here"), Path("/root"))


@pytest.mark.parametrize("key", ["first", "next"])
def test_all_rounds_are_no_text_to_carry(key: str) -> None:
    group = {"rounds": 2, "first": {"b": "x"}, "next": {"b": "x"}, "stages": [A]}
    with pytest.raises(UserError, match=rf"item 1: {key}: {{all:NAME}} can be a word"):
        expand([{**group, key: {"b": "{all:a}"}}], Path("/here"), Path("/root"))
