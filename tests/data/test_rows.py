"""Which files a folder of data stands for, and that each is read to its end."""

import gzip
import json
import logging
import random
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from wdl.data.rows import data_files, rows_of
from wdl.errors import UserError

ROW = {"prompt": "a", "completion": "b"}
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.compress,
}


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """A function that returns what was said."""
    with caplog.at_level(logging.INFO):
        yield lambda: caplog.text


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(ROW))
    return folder


@pytest.mark.parametrize(
    ("names", "read", "unread"),
    [
        (["b.jsonl", "a.jsonl", ".hidden.jsonl", ".git/x.jsonl"], "a.jsonl, b.jsonl", ""),
        (["a.jsonl", "more/b.jsonl", "more/.x/c.json"], "a.jsonl, more/b.jsonl", ""),
        (["train.jsonl", "test.jsonl", "valid.jsonl"], "train.jsonl", "test.jsonl, valid.jsonl"),
        (["my-train-0.jsonl", "my_TEST_0.jsonl"], "my-train-0.jsonl", "my_TEST_0.jsonl"),
        (["train/0.jsonl", "validation/0.jsonl"], "train/0.jsonl", "validation/0.jsonl"),
        (["train/test_items.jsonl", "test/x.jsonl"], "", "test/x.jsonl, train/test_items.jsonl"),
        (["dev/train.jsonl", "latest.jsonl"], "dev/train.jsonl, latest.jsonl", ""),
        (["a.jsonl", "heldout.jsonl", "notes.md"], "a.jsonl", "heldout.jsonl, notes.md"),
    ],
)
def test_what_a_folder_stands_for(
    names: list[str], read: str, unread: str, tmp_path: Path, said: Callable[[], str]
) -> None:
    folder = fill(tmp_path / "data", *names)
    if not read:
        with pytest.raises(UserError, match=r"nothing to train on, only test/x.jsonl"):
            data_files(folder)
        return
    assert data_files(folder) == [folder / name for name in read.split(", ")]
    rest = f"; does not read {unread}" if unread else ""
    assert f"{folder}: reads {read}{rest}\n" in said()


def test_a_folder_that_is_linked_is_named(tmp_path: Path, said: Callable[[], str]) -> None:
    fill(tmp_path / "elsewhere", "b.jsonl")
    folder = fill(tmp_path / "data", "a.jsonl")
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    (folder / "c.jsonl").symlink_to(tmp_path / "elsewhere/b.jsonl")
    assert data_files(folder) == [folder / "a.jsonl", folder / "c.jsonl"]
    assert "does not read more" in said()


@pytest.mark.parametrize("path", ["table.csv", "."])
def test_a_table_can_be_converted_as_the_fault_says(path: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("prompt,completion\na,b\n")
    with pytest.raises(UserError) as error:
        data_files(tmp_path / path)
    command = shlex.split(error.value.lines()[0].partition("python ")[2])
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    assert list(rows_of(tmp_path / "table.jsonl", [])) == [(1, ROW)]


@pytest.mark.parametrize("suffix", COMPRESSORS)
@pytest.mark.parametrize("kind", [".json", ".jsonl"])
def test_compressed_files_of_several_parts(suffix: str, kind: str, tmp_path: Path) -> None:
    text = json.dumps([ROW, ROW]) if kind == ".json" else f"{json.dumps(ROW)}\n" * 2
    file = tmp_path / f"rows{kind}{suffix}"
    middle = len(text) // 2
    parts = (text[:middle], text[middle:])
    file.write_bytes(b"".join(COMPRESSORS[suffix](part.encode()) for part in parts))
    assert [row for _, row in rows_of(file, [])] == [ROW, ROW]
    assert data_files(tmp_path) == [file]


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_a_cut_off_file_is_an_error_even_where_a_line_ends(suffix: str, tmp_path: Path) -> None:
    draw = random.Random(0)
    text = "".join(f'{{"prompt": "{draw.random()}", "completion": "b"}}\n' for _ in range(20_000))
    whole = COMPRESSORS[suffix](text.encode())
    file = tmp_path / f"rows.jsonl{suffix}"
    file.write_bytes(whole[: len(whole) * 2 // 3])
    faults: list[str] = []
    with pytest.raises(UserError, match=f"damaged {suffix[1:].capitalize()} data"):
        list(rows_of(file, faults))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[{"a": 1}]\n[{"a": 2}]', 2),
        ('[{"a": 1}]{"a": 2}', 1),
        ('[\n{"a": 1}\n]\n\n\n,', 6),
        ("[]\n]", 2),
        ('[{"a": 1}]' + " " * 5000 + "\n\nx", 3),
    ],
)
def test_text_after_a_list_is_refused(text: str, line: int, tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text(text)
    with pytest.raises(UserError, match=f"rows.json:{line}: .* text after the list"):
        list(rows_of(file, []))


def test_white_space_after_a_list_is_none(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    file.write_text('\n [{"a": 1}, [2]]\n\n ')
    assert list(rows_of(file, [])) == [(2, {"a": 1}), (2, [2])]
