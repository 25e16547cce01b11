"""Questions of any data set: both orders of two pictures, ties, forms of one's own, faults."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wdl.cli import main

OWN = """
from wdl.rounds.sets import Form


class Colours(Form):
    def questions(self, row):
        seen = {"images": [row["file"]]}
        yield {"problem": "<image>Which colour?", "solution": row["colour"], **seen}
"""


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    names = [f"{colour}.png" for colour in ("red", "green", "blue")]
    for name in names:
        Image.new("RGB", (30, 30), name[:-4]).save(tmp_path / name)
    return names


def write_set(path: Path, form: dict[str, Any]) -> str:
    Path("set.yaml").write_text(json.dumps({"path": str(path), "form": form}))
    return "set.yaml"


BETTER = {
    "class_path": "wdl.rounds.sets.BetterImage",
    "init_args": {"question": "<image><image>Which fits {caption}?"},
}


def read(out: str = "out/pool.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(out).read_text().splitlines()]


def test_two_pictures_in_both_orders(
    pictures: list[str], write_rows: Callable[..., Path], capsys: Any
) -> None:
    scored = [
        {"caption": "grass", "images": pictures[:2], "scores": [1, 3]},
        {"caption": "a tie", "images": pictures[1:], "scores": [2, 2]},
    ]
    command = ["pool", "--set", write_set(write_rows(scored), BETTER), "--out", "out/pool.jsonl"]
    main(command)
    one, other = read()
    assert [one["answer"], other["answer"]] == ["Image 2 is better", "Image 1 is better"]
    assert one["images"] == ["../red.png", "../green.png"] == other["images"][::-1]
    assert one["item"] == other["item"]
    assert one["id"] != other["id"]
    assert "2 questions of 2 rows, 1 of which ask nothing" in capsys.readouterr().out
    before = Path("out/pool.jsonl").read_bytes()
    main(command)
    assert "there already" in capsys.readouterr().out
    assert Path("out/pool.jsonl").read_bytes() == before


def test_a_form_of_ones_own(
    pictures: list[str], write_rows: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("colours.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    rows = write_rows([{"file": name, "colour": f"it is {name[:-4]}"} for name in pictures])
    main(["pool", "--set", write_set(rows, {"class_path": "colours.Colours"}), "--out", "p.jsonl"])
    assert [row["answer"] for row in read("p.jsonl")] == ["it is red", "it is green", "it is blue"]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"scores": [1, 2]}, "'images' must be a list of two pictures"),
        ({"images": ["red.png"], "scores": [1, 2]}, "'images' must be a list of two pictures"),
        ({"images": ["red.png", "blue.png"]}, "'scores' must be a list of two numbers"),
        ({"images": ["red.png", "blue.png"], "scores": [1, "2"]}, "'scores' must be a list of"),
        ({"images": ["red.png", "blue.png"], "scores": [1, 2]}, "the question wants 'caption'"),
        ({"images": ["red.png", "no.png"], "scores": [1, 2], "caption": "a"}, "no picture"),
        (3, "a row is an object"),
    ],
)
def test_faults_of_rows(
    row: Any, fault: str, pictures: list[str], write_rows: Callable[..., Path], capsys: Any
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["pool", "--set", write_set(write_rows([row]), BETTER), "--out", "p.jsonl"])
    assert end.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "rows.jsonl:1: " in lines[0]
    assert fault in lines[0]
    assert not Path("p.jsonl").exists()


@pytest.mark.parametrize(
    ("form", "fault"),
    [
        ({"class_path": "nowhere.Form"}, "nowhere"),
        ({"class_path": "wdl.rounds.sets.BetterImage"}, "question"),
        ({**BETTER, "init_args": {"question": "a", "colour": 1}}, "colour"),
    ],
)
def test_faults_of_sets(
    form: dict[str, Any], fault: str, write_rows: Callable[..., Path], capsys: Any
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["pool", "--set", write_set(write_rows([{}]), form), "--out", "p.jsonl"])
    assert end.value.code == 2
    assert fault in capsys.readouterr().err
