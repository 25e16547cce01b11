"""The journal after kills at every byte."""

import json
from pathlib import Path

import pytest

from wdl.errors import UserError
from wdl.system.journal import Journal, read_entries

INPUTS = {"model": "m", "protocol": {"name": "quick"}}
ENTRIES = [{"id": "a", "completion": "x\u2028y\r\nz"}, {"id": "b", "completion": "é"}]


def test_keeps_what_was_appended(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, INPUTS) as journal:
        journal.append(ENTRIES[:1])
    with Journal(path, INPUTS) as journal:
        assert list(journal.entries()) == ENTRIES[:1]
        journal.append(ENTRIES[1:])
    with Journal(path, INPUTS) as journal:
        assert list(journal.entries()) == ENTRIES


def test_a_kill_at_any_byte_leaves_whole_entries(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, INPUTS) as journal:
        journal.append(ENTRIES)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        with Journal(path, INPUTS) as journal:
            kept = list(journal.entries())
            journal.append(ENTRIES[len(kept) :])
        assert kept == ENTRIES[: len(kept)]
        assert path.read_bytes() == whole


def test_what_is_being_written_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, INPUTS) as journal:
        journal.append(ENTRIES)
        with path.open("ab") as stream:
            stream.write(b'{"id": "c", "compl')
        assert list(read_entries(path)) == ENTRIES


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("damage", [b"{oops\n", b"\xff\n", b"[1]\n"])
def test_a_damaged_line_says_what_to_remove(tmp_path: Path, number: int, damage: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, INPUTS) as journal:
        journal.append(ENTRIES)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number - 1] = damage
    path.write_bytes(b"".join(lines))
    with pytest.raises(UserError) as error, Journal(path, INPUTS) as journal:
        list(journal.entries())
    assert f"{path}:{number}: the line is damaged; remove this file" in str(error.value)


def test_a_torn_line_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, INPUTS) as journal:
        journal.append(ENTRIES)
    with path.open("ab") as stream:
        stream.write(b"x" * 200_000)
    with Journal(path, INPUTS) as journal:
        assert list(journal.entries()) == ENTRIES
    assert path.read_bytes().endswith(b"}\n")


def test_answers_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, INPUTS):
        pass
    with pytest.raises(UserError, match=r"made with another model; .*choose another --out"):
        Journal(path, INPUTS | {"model": "n"})
    assert json.loads(path.read_text()) == INPUTS


def test_two_writers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    with Journal(path, INPUTS), pytest.raises(UserError, match="another process is writing"):
        Journal(path, INPUTS)
