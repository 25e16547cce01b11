"""What a verb leaves: for whom it was asked, and nothing otherwise."""

from pathlib import Path

import pytest

from wdl.system.outcome import VARIABLE, leave_outcome, read_outcome


def test_numbers_are_left_where_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "stage/outcome.json")
    leave_outcome({"tokens": 500, "steps": 3}, {"val/loss": 0.5})
    leave_outcome({"samples": 7})
    assert read_outcome(Path("stage/outcome.json")) == ({"samples": 7}, {})
    assert [file.name for file in Path("stage").iterdir()] == ["outcome.json"]


def test_nothing_is_left_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    leave_outcome({"samples": 7})
    assert not list(Path().iterdir())
    assert read_outcome(Path("outcome.json")) == ({}, {})
