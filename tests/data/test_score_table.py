"""The interchange file: read as the paper writes it, with one line for every fault."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wdl.data.score_table import ScoreTable
from wdl.errors import UserError

ROWS = [
    {"idx": 4, "entropy_0": 2.5, "entropy_1": 2.1},
    {"idx": 0, "entropy_0": 1, "entropy_1": 0.0},
    {"idx": 2, "entropy_1": 0.25, "entropy_0": 0.5},
]


def test_rounds_by_idx(write_rows: Callable[..., Path]) -> None:
    table = ScoreTable.read(write_rows(ROWS))
    assert table.idx.tolist() == [0, 2, 4]
    assert table.rounds().tolist() == [[1, 0.5, 2.5], [0, 0.25, 2.1]]


def test_what_is_written_can_be_read(write_rows: Callable[..., Path], tmp_path: Path) -> None:
    ScoreTable.read(write_rows(ROWS)).write(tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text().splitlines()[2] == (
        '{"idx": 4, "entropy_0": 2.5, "entropy_1": 2.1}'
    )
    assert ScoreTable.read(tmp_path / "out.jsonl").rounds().shape == (2, 3)


def test_scores_with_a_sign(write_rows: Callable[..., Path]) -> None:
    rows = write_rows([{"idx": 0, "logp": -3.5}])
    assert ScoreTable.read(rows, signed=True).fields["logp"].tolist() == [-3.5]
    with pytest.raises(UserError, match=":1: logp is -inf; a score is a finite number"):
        ScoreTable.read(write_rows([{"idx": 0, "logp": float("-inf")}]), signed=True)


def test_missing_samples(write_rows: Callable[..., Path]) -> None:
    table = ScoreTable.read(write_rows(ROWS))
    asked = np.array([2, 3, 4, 5, 6, 7, 8, 9])
    with pytest.raises(
        UserError, match=r"6 of 8 samples have no score, idx 3, 5, 6, 7, 8, \.\.\.;"
    ):
        table.find(asked, "error")
    place, known = table.find(asked, "drop")
    assert known.tolist() == [True, False, True] + [False] * 5
    assert table.idx[place[known]].tolist() == [2, 4]
    with pytest.raises(UserError, match="2 of 2 samples have no score, idx 7, 8;"):
        table.find(np.array([7, 8]), "drop")


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ([{"idx": 0, "entropy_0": -0.5}], ":1: entropy_0 is -0.5; an entropy is not negative"),
        ([{"idx": 0, "entropy_0": float("nan")}], ":1: entropy_0 is nan; a score is a finite"),
        ([{"idx": 0, "entropy_0": True}], ":1: entropy_0 is True"),
        ([{"idx": 0}], ":1: its fields are none, expected one"),
        ([{"entropy_0": 1}], r':1: a row is {"idx": INTEGER'),
        (
            [ROWS[0], {"idx": 1, "entropy_0": 1}],
            ":2: its fields are entropy_0, expected entropy_0, e",
        ),
        ([ROWS[0], ROWS[0]], ":2: idx 4 occurs twice"),
        ([], "the file is empty"),
    ],
)
def test_faults(rows: list[dict], fault: str, write_rows: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=rf"rows.jsonl.*{fault}"):
        ScoreTable.read(write_rows(rows))


@pytest.mark.parametrize("fields", [["entropy_1"], ["entropy_0", "entropy_2"], ["h"]])
def test_rounds_without_a_gap(fields: list[str], write_rows: Callable[..., Path]) -> None:
    table = ScoreTable.read(write_rows([{"idx": 0, **dict.fromkeys(fields, 1.0)}]))
    with pytest.raises(UserError, match="without a gap"):
        table.rounds()
