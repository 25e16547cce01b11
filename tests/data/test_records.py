"""Reading rows: every schema, and one clear line for every fault."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from wdl.data.records import OnBadRow, RecordReader
from wdl.data.rows import HubData, Part, data_files, data_parts, rows_of
from wdl.errors import UserError


class Numbered(TypedDict):
    """A record as it is kept, with its number."""

    idx: int
    messages: list[dict[str, str]]
    completion: str
    thought: str
    images: list[str]


def read_records(parts: Sequence[Part], on_bad_row: OnBadRow = "error") -> list[Numbered]:
    reader = RecordReader(parts, on_bad_row)
    return numbered(reader)


def numbered(reader: RecordReader) -> list[Numbered]:
    records = [record for _, record in reader]
    return [{"idx": idx, **r} for idx, r in zip(reader.idx().tolist(), records, strict=True)]


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
    assert read_records([file]) == [
        {"idx": 0, "messages": messages, "completion": "2", "thought": "", "images": []}
    ]


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
        ('{"prompt": "\\ud800", "completion": "b"}', "'prompt' holds half a surrogate pair"),
        ("[" * 100_000, r"rows.jsonl:1: broken JSON"),
        ('{"idx": 1e400, "prompt": "a", "completion": "b"}', "idx is a number"),
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


def test_empty_answers_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"prompt": "a", "completion": c} for c in ("b", " ", "c")]
    file.write_text("\n".join(map(json.dumps, rows)))
    reader = RecordReader([file])
    assert [(r["idx"], r["completion"]) for r in numbered(reader)] == [(0, "b"), (2, "c")]
    assert reader.left_out == [f"{file}:2: 'completion' is empty; fill it in or drop the row"]


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ([None, 0, None, 1, None], [2, 0, 3, 1, 4]),
        ([7, None, None], [7, 0, 1]),
        ([None, None, -1, 1], [0, 2, -1, 1]),
        ([None, 9, "bad", None], [0, 9, 1]),
    ],
)
def test_rows_without_an_idx_are_numbered_around_the_others(
    given: list, numbers: list[int], tmp_path: Path
) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"idx": idx, "prompt": "a", "completion": f"{n}"} for n, idx in enumerate(given)]
    file.write_text("\n".join(map(json.dumps, rows)))
    records = read_records([file], on_bad_row="skip")
    assert [record["idx"] for record in records] == numbers
    order = [n for n, idx in enumerate(given) if idx != "bad"]
    assert [record["completion"] for record in records] == list(map(str, order))


def test_messages_may_carry_information(tmp_path: Path) -> None:
    question = {**QUESTION, "info": {"source": "x", "reference_answer": "2"}}
    answer = {**ANSWER, "info": {"think_content": "...", "answer_content": "2"}}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"messages": [question, answer]}))
    assert read_records([file]) == [
        {"idx": 0, "messages": [QUESTION], "completion": "2", "thought": "", "images": []}
    ]


def write_parquet(file: Path, rows: list[dict]) -> None:
    parquet.write_table(pa.Table.from_pylist(rows), file)


def write_zst(file: Path, *texts: str) -> None:
    """Each text is a frame of its own."""
    file.write_bytes(b"".join(zstandard.compress(text.encode()) for text in texts))


def test_every_format_in_one_folder(tmp_path: Path) -> None:
    lines = [json.dumps({"prompt": str(n), "completion": str(n)}) + "\n" for n in range(5)]
    (tmp_path / "a.json").write_text("[" + lines[0] + "]")
    (tmp_path / "b.jsonl").write_text(lines[1])
    write_zst(tmp_path / "c.jsonl.zst", lines[2], lines[3])
    rows: list[dict] = [
        {"messages": [QUESTION, ANSWER], "idx": None, "prompt": None, "completion": None},
        {"messages": None, "idx": 99, "prompt": "9", "completion": "9"},
    ]
    write_parquet(tmp_path / "d.parquet", rows)
    records = read_records(data_files(tmp_path))
    assert [(r["idx"], r["completion"]) for r in records] == [
        *((n, str(n)) for n in range(4)),
        (4, "2"),
        (99, "9"),
    ]


@pytest.mark.parametrize("name", ["rows.jsonl.zst", "rows.parquet"])
@pytest.mark.parametrize("damage", ["cut", "other"])
def test_damaged_files(name: str, damage: str, tmp_path: Path) -> None:
    rows = [{"prompt": str(n), "completion": str(n * n)} for n in range(500)]
    if name.endswith("zst"):
        write_zst(tmp_path / name, "".join(json.dumps(row) + "\n" for row in rows))
    else:
        write_parquet(tmp_path / name, rows)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"not it")
    with pytest.raises(UserError, match=name):
        read_records([tmp_path / name], on_bad_row="skip")


def test_bad_rows_can_be_skipped(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    good = [json.dumps({"idx": n, "prompt": "a", "completion": str(n)}) for n in (3, 4)]
    file.write_text("\n".join([good[0], '{"prompt": "a"}', "{oops", good[0], good[1]]))
    reader = RecordReader([file], on_bad_row="skip")
    assert [r["idx"] for r in numbered(reader)] == [3, 4]
    assert reader.left_out.total == 3
    assert [line.split(":")[1] for line in reader.left_out] == ["2", "3", "4"]


def test_nothing_left_after_skipping_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a"}\n')
    with pytest.raises(UserError, match=r"rows.jsonl:1: 'completion' is missing"):
        read_records([file], on_bad_row="skip")


@pytest.mark.parametrize("order", [[5, 6, 7, 6], [5, 9, 6, 9], [3, 3]])
def test_repeated_ids_in_any_order(order: list[int], tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"idx": idx, "prompt": "a", "completion": "b"} for idx in order]
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=f"rows.jsonl:{len(order)}: idx {order[-1]} occurs twice"):
        read_records([file])


@pytest.mark.parametrize("name", ["somebody/nothing", "somebody/nothing:part"])
def test_a_data_set_that_the_hub_does_not_give(name: str) -> None:
    (part,) = data_parts(name)
    assert isinstance(part, HubData)
    with pytest.raises(UserError, match=f"{name}: there is no such file, and as a data set"):
        read_records([part])


def test_a_missing_file_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        data_parts("data/rows.jsonl")


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


def test_each_element_of_a_json_list_has_its_line(tmp_path: Path) -> None:
    values = [{"a": 'é\n"]', "b": [1, {"c": None}]}, 12345, -1.5e-07, "x, y", [], True, {}]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(values, indent=1, ensure_ascii=False))
    found = list(rows_of(file, []))
    assert [value for _, value in found] == values
    assert [line for line, _ in found] == [2, 11, 12, 13, 14, 15, 16]


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
