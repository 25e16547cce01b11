"""Rounds that differ: what is skipped, and what names stand for then."""

from collections.abc import Set
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from wdl.config.paths import InputPath
from wdl.pipeline.stages import Step, expand

SELF_TRAINING = """
- rounds: 4
  first: {model: "{here}/model", pool: "{here}/pool"}
  next: {model: "{train}/strong", pool: "{renew}/pool"}
  stages:
    - {name: collect, on_failure: skip, command: "sample --model {model} --pool {pool}"}
    - {name: grade, command: "grade --answers {collect}/answers"}
    - {name: pairs, from_round: 3, command: "pairs --graded {all:grade}/graded --out {pairs}"}
    - {name: train, command: "fit --model {model} --data {pairs}/pairs"}
    - {name: renew, on_failure: skip, command: "renew --pool {pool} --graded {grade}/graded"}
- {name: last, command: "evaluate --model {model} --last {collect}"}
"""


def steps(failed: Set[str] = frozenset(), text: str = SELF_TRAINING) -> dict[str, Step]:
    found = expand(yaml.safe_load(text), Path("/here"), Path("/root"), failed)
    return {step.name: step for step in found}


def skipped(found: dict[str, Step]) -> dict[str, str]:
    return {name: step.skip for name, step in found.items() if step.skip}


def model(found: dict[str, Step], name: str) -> str:
    words = found[name].words
    return words[words.index("--model") + 1]


def test_warm_up_rounds_keep_the_model_that_they_began_with() -> None:
    found = steps()
    assert skipped(found) == {
        "pairs-1": "it begins in round 3",
        "train-1": "it needs pairs-1, which is skipped",
        "pairs-2": "it begins in round 3",
        "train-2": "it needs pairs-2, which is skipped",
    }
    assert [model(found, f"collect-{k}") for k in (1, 2, 3, 4)] == [
        *("/here/model",) * 3,
        "/root/train-3/strong",
    ]
    assert model(found, "last") == "/root/train-4/strong"


def test_all_rounds_so_far_are_a_list_that_options_take() -> None:
    found = steps()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--graded", type=list[InputPath])
    parser.add_argument("--out")
    for number in (3, 4):
        options = parser.parse_args(list(found[f"pairs-{number}"].words[1:]))
        rounds = range(1, number + 1)
        assert options.graded == [f"/root/grade-{k}/graded" for k in rounds]


def test_all_rounds_with_an_equals_sign_or_as_words() -> None:
    text = """
- rounds: 2
  stages: [{name: a, command: tiny}, {name: b, command: "x --of={all:a}/{stage}"}]
- {name: c, command: "compare {all:a}/x --to y"}
"""
    found = steps(text=text)
    assert found["b-2"].words == ("x", '--of=["/root/a-1/b-2", "/root/a-2/b-2"]')
    assert found["c"].words == ("compare", "/root/a-1/x", "/root/a-2/x", "--to", "y")


def test_a_failure_takes_along_what_needs_it_and_no_more() -> None:
    found, as_planned = steps({"collect-3"}), steps()
    assert list(found) == list(as_planned)
    assert skipped(found).keys() - skipped(as_planned).keys() == {"grade-3", "renew-3"}
    assert found["grade-3"].skip == "it needs collect-3, which is skipped"
    assert found["renew-3"].skip == "it needs grade-3, which is skipped"
    assert found["pairs-3"].words[2] == '["/root/grade-1/graded", "/root/grade-2/graded"]'
    assert "/root/renew-2/pool" in found["collect-4"].words
    assert model(found, "collect-4") == "/root/train-3/strong"


def test_a_pool_that_could_not_be_renewed_stays() -> None:
    found = steps({"renew-1", "renew-2"})
    pools = [found[f"collect-{k}"].words[-1] for k in (1, 2, 3, 4)]
    assert pools == ["/here/pool"] * 3 + ["/root/renew-3/pool"]


def test_without_any_of_all_rounds_a_stage_is_skipped() -> None:
    found = steps({f"collect-{k}" for k in (1, 2, 3, 4)})
    assert found["pairs-3"].skip == "it needs {all:grade}, of which there is none"
    assert model(found, "last") == "/here/model"
    assert found["last"].skip == "it needs collect-4, which is skipped"


def test_what_a_group_begins_with_can_be_missing() -> None:
    text = """
- {name: a, on_failure: skip, command: tiny}
- {rounds: 2, first: {m: "{a}"}, next: {m: "{c}"}, stages: [
    {name: b, command: "x {m}"}, {name: c, command: tiny}]}
"""
    assert skipped(steps({"a"}, text)) == {"b-1": "it needs a, which is skipped"}


def test_a_later_group_may_carry_the_same_names() -> None:
    group = '{rounds: 1, first: {m: x}, next: {m: "{%s}"}, stages: [{name: %s, command: "x {m}"}]}'
    text = f"- {group % ('a', 'a')}\n- {group % ('b', 'b')}\n- {{name: m, command: 'x {{m}}'}}"
    found = steps(text=text)
    assert found["b-1"].words == ("x", "x")
    assert found["m"].words == ("x", "/root/m")  # a stage's own folder comes first
