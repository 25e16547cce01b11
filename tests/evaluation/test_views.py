"""The views show what the record says."""

import csv
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from wdl.evaluation.figures import COLOUR, write_accuracies
from wdl.evaluation.views import write_csv, write_tensorboard


@pytest.fixture
def summary() -> dict[str, Any]:
    found = {
        "accuracy": 0.5,
        "interval": [0.25, 0.75],
        "problems": 4,
        "samples": 2,
        "cut_off_rate": 0.125,
        "new_tokens": 33.0,
        "pass@2": {"value": 0.625, "interval": [0.5, 0.875]},
    }
    return {
        "protocol": {"name": "mine", "version": 2},
        "models": {"a & $b$": {"sums": {"results": found, "inputs": {}}}},
    }


def test_csv(summary: dict[str, Any], tmp_path: Path) -> None:
    write_csv(summary, tmp_path / "s.csv")
    with (tmp_path / "s.csv").open() as lines:
        rows = {row["metric"]: row for row in csv.DictReader(lines)}
    assert {metric: row["value"] for metric, row in rows.items()} == {
        "accuracy": "0.5",
        "pass@2": "0.625",
        "cut_off_rate": "0.125",
        "new_tokens": "33.0",
    }
    assert (rows["pass@2"]["low"], rows["pass@2"]["high"]) == ("0.5", "0.875")
    assert {row["model"] for row in rows.values()} == {"a & $b$"}


def test_plot_shows_the_interval_around_the_accuracy(
    summary: dict[str, Any], tmp_path: Path
) -> None:
    write_accuracies(summary, tmp_path / "s.svg")
    picture = (tmp_path / "s.svg").read_text()
    tree = ElementTree.fromstring(picture)
    name = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in tree.iter(f"{name}text")]
    assert "a & $b$ · sums   50.0%" in texts
    (line,) = (
        [float(x) for x in re.findall(r"[ML] (\S+)", path.attrib["d"])]
        for path in tree.iter(f"{name}path")
        if COLOUR in path.attrib.get("style", "") and "clip-path" in path.attrib
    )
    (mark,) = (
        float(use.attrib["x"])
        for use in tree.iter(f"{name}use")
        if COLOUR in use.attrib.get("style", "")
    )
    assert mark - line[0] == pytest.approx(line[1] - mark)
    assert line[0] < mark
    write_accuracies(summary, tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == picture


def test_tensorboard(summary: dict[str, Any], tmp_path: Path) -> None:
    answer = {
        "question": "1+1?",
        "completion": "two\nor so",
        "status": "wrong",
        "answer": "two",
        "reference": "2",
    }
    (tmp_path / "a & $b$").mkdir()
    (tmp_path / "a & $b$" / "sums.jsonl").write_text(json.dumps(answer) + "\n")
    with SummaryWriter(tmp_path / "events") as writer:
        write_tensorboard(summary, tmp_path, writer, step=7)
    events = EventAccumulator(str(tmp_path / "events"))
    events.Reload()
    (tag,) = [tag for tag in events.Tags()["scalars"] if "accuracy" in tag]
    (event,) = events.Scalars(tag)
    assert (event.step, event.value) == (7, 0.5)
    assert events.Tags()["tensors"]
