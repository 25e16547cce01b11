"""Reading rows: every schema, and one clear line for every fault."""

import json
from pathlib import Path

import pytest

from wdl.data.records import data_files, read_records
from wdl.errors import UserError

QUESTION = {"role": "user", "content": "1+1?"}
ANSWER = {"role": "assistant", "content": "2"}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"instruction": "1+1?", "output": "2"}, [QUESTION]),
        ({"instruction": "1+1?", "input": "", "output": "2"}, [QUESTION]),
        (
            {"instruction": "Add.", "input": "1+1", "output": "2"},
            [{"role": "user", "content": "Add.\n\n1+1"}],
        ),
        ({"prompt": "1+1?", "completion": "2"}, [QUESTION]),
        ({"messages": [QUESTION, ANSWER]}, [QUESTION]),
    ],
)  # fmt: skip
def test_schemas(row: dict, messages: list, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row))
    assert read_records([file]) == [{"idx": 0, "messages": messages, "completion": "2"}]


def test_json_lists_and_folders(tmp_path: Path) -> None:
    rows = [{"prompt": str(n), "completion": str(n)} for n in range(4)]
    (tmp_path / "a.json").write_text(json.dumps(rows[:2], indent=4))
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows[2:])))
    (tmp_path / "notes.txt").write_text("not data")
    records = read_records(data_files(tmp_path))
    assert [(r["idx"], r["completion"]) for r in records] == [
        (0, "0"),
        (1, "1"),
        (2, "2"),
        (3, "3"),
    ]


def test_given_idx_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"idx": 7, "prompt": "a", "completion": "b"}')
    assert read_records([file])[0]["idx"] == 7


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "rows.jsonl: the file is empty"),
        ('{"prompt": "a"}', r"rows.jsonl:1: 'completion' is missing"),
        ('{"prompt": "a", "completion": " "}', r"rows.jsonl:1: 'completion' is empty"),
        ('{"prompt": "a", "completion": "b"}\n{"prompt": ', r"rows.jsonl:2: broken JSON"),
        ('{"question": "a"}', r"rows.jsonl:1: the row has none of instruction"),
        ("[1]", r"rows.jsonl:1: a row is an object, this is a list"),
        ('{"idx": "x", "prompt": "a", "completion": "b"}', "idx is a text"),
        ('{"idx": 1, "prompt": "a", "completion": "b"}\n' * 2, "rows.jsonl:2: idx 1 occurs twice"),
        ('{"messages": [{"role": "user", "content": "a"}]}', "at least a question and an answer"),
        (json.dumps({"messages": [ANSWER, QUESTION]}), "last message must be the assistant's"),
        (
            json.dumps({"messages": [{**QUESTION, "role": "king"}, ANSWER]}),
            "role 'king' is unknown",
        ),
    ],
)
def test_faults(text: str, fault: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match=fault):
        read_records([file])


def test_empty_answers_are_left_out_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": "a", "completion": c} for c in ("b", " ", "c")]
    file.write_text("\n".join(map(json.dumps, rows)))
    assert [(r["idx"], r["completion"]) for r in read_records([file])] == [(0, "b"), (2, "c")]
    assert "rows.jsonl:2: 'completion' is empty" in caplog.text


def test_binary_file(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match="no UTF-8 text"):
        read_records([file])


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            '[\n {"prompt": "a", "completion": "b"},\n\n {"prompt": "c"}\n]',
            "rows.json:4: 'completion'",
        ),
        ('[{"prompt": "a", "completion": "b"}', "rows.json:1: the list is not closed"),
        ('[{"prompt": "a",\n oops}]', "rows.json:2: broken JSON"),
        ('{"prompt": "a"}', "rows.json:1: a .json file holds one list"),
        (" ", "rows.json: the file is empty"),
        ("[]", "rows.json: the file is empty"),
    ],
)
def test_faults_of_json_lists(text: str, fault: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(text)
    with pytest.raises(UserError, match=fault):
        read_records([file])


def test_twenty_faults_then_a_count(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a"}\n' * 50)
    with pytest.raises(UserError) as error:
        read_records([file])
    lines = error.value.lines()
    assert len(lines) == 21
    assert lines[-1] == "... and 30 more like these"


@pytest.mark.parametrize("name", ["missing.jsonl", "table.csv", "empty"])
def test_files_that_cannot_be_data(name: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=name):
        data_files(tmp_path / name)
