"""Rows with pictures: every form people have, and one line for each that is refused."""

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow
from pyarrow import parquet

from wdl.data.preference_schemas import parse_preferences
from wdl.data.records import RecordReader
from wdl.data.rows import HubData, Part
from wdl.data.schemas import Record
from wdl.errors import UserError


def drawn(colour: str, form: str = "png") -> bytes:
    stream = io.BytesIO()
    Pillow.new("RGB", (8, 8), colour).save(stream, form)
    return stream.getvalue()


RED, BLUE = drawn("red"), drawn("blue")
URI = "data:image/png;base64," + base64.b64encode(RED).decode()
ASKED = "<image><image>Which one is red?"
PAIR = {"prompt": ASKED, "completion": "1"}
BOTH = ["red.png", "sub/blue.png"]


def image(**source: Any) -> dict:
    return {"type": "image", **source}


def text(said: str) -> dict:
    return {"type": "text", "text": said}


def user(*parts: Any) -> dict:
    return {"role": "user", "content": list(parts)}


def assistant(said: Any) -> dict:
    return {"role": "assistant", "content": said}


PARTS = user(image(image="red.png"), image(path="sub/blue.png"), text("Which one is red?"))
PLACES = user(image(), image(), text("Which one is red?"))
SIDES = {"chosen": "1", "rejected": "2"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of data with two pictures."""
    data = tmp_path / "data"
    (data / "sub").mkdir(parents=True)
    (data / "red.png").write_bytes(RED)
    (data / "sub" / "blue.png").write_bytes(BLUE)
    return data


def read(
    part: Part, preferences: bool = False, on_bad_row: Any = "error", cache: Path | None = None
) -> list[Record]:
    store = cache or Path("unused")
    if preferences:
        reader = RecordReader([part], on_bad_row, parse_preferences, pictures=store)
    else:
        reader = RecordReader([part], on_bad_row, pictures=store)
    return [record for _, record in reader]


def in_file(folder: Path, *rows: Any) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.mark.parametrize(
    "row",
    [
        {**PAIR, "images": BOTH},
        {"instruction": ASKED, "output": "1", "images": BOTH},
        {"problem": ASKED, "solution": "1", "images": BOTH},
        {"messages": [{"role": "user", "content": ASKED}, assistant("1")], "images": BOTH},
        {"conversations": [{"from": "human", "value": ASKED}, {"from": "gpt", "value": "1"}],
         "images": BOTH},
        {"messages": [PARTS, assistant("1")]},
        {"messages": [PARTS, assistant([text("1")])], "images": []},
        {"messages": [PLACES, assistant("1")], "images": BOTH},
        {"messages": [user({**image(), "image": None, "text": None}, image(),
                           {**text("Which one is red?"), "image": None}), assistant("1")],
         "images": BOTH},
        {"messages": [user({"type": "image_url", "image_url": {"url": "red.png"}},
                           {"type": "image_url", "image_url": "sub/blue.png"},
                           text("Which one is "), text("red?")), assistant("1")]},
        {"messages": [user(image(url="red.png"), image(image="sub/blue.png"),
                           text("Which one is red?")), assistant("1")]},
    ],
)  # fmt: skip
def test_what_is_read(row: dict, folder: Path) -> None:
    (record,) = read(in_file(folder, row))
    assert record["messages"] == [{"role": "user", "content": ASKED}]
    assert record["completion"] == "1"
    assert record["images"] == [str(folder / name) for name in BOTH]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED, **SIDES, "images": BOTH},
        {"prompt": [PARTS], "chosen": [assistant("1")], "rejected": [assistant("2")]},
        {"prompt": [PLACES], "chosen": assistant("1"), "rejected": assistant("2"), "images": BOTH},
        {"chosen": [PARTS, assistant("1")], "rejected": [PARTS, assistant("2")]},
        {"prompt": [PARTS], "chosen": [PARTS, assistant([text("1")])],
         "rejected": [PARTS, assistant([text("2")])]},
        {"messages": [PARTS], "chosen": assistant([text("1")]), "rejected": assistant("2")},
        {"chosen": [PLACES, assistant("1")], "rejected": [PLACES, assistant("2")], "images": BOTH},
    ],
)  # fmt: skip
def test_preferences_have_the_pictures_of_their_prompt(row: dict, folder: Path) -> None:
    answers = read(in_file(folder, row), preferences=True)
    assert [answer["completion"] for answer in answers] == ["1", "2"]
    for answer in answers:
        assert answer["messages"] == [{"role": "user", "content": ASKED}]
        assert answer["images"] == [str(folder / name) for name in BOTH]


def test_pictures_stand_in_the_order_of_their_marks(folder: Path) -> None:
    talk = [user(text("This?"), image(image="sub/blue.png")), assistant("Blue."),
            user(image(image="red.png"), text("And this?")), assistant("Red.")]  # fmt: skip
    (record,) = read(in_file(folder, {"messages": talk}))
    texts = [message["content"] for message in record["messages"]]
    assert texts == ["This?<image>", "Blue.", "<image>And this?"]
    assert record["images"] == [str(folder / "sub/blue.png"), str(folder / "red.png")]


@pytest.mark.parametrize("row", [{"prompt": "What does <image> mean?", "completion": "<image>"},
                                 {**PAIR, "images": []}, {**PAIR, "image": ""},
                                 {**PAIR, "images": None}])  # fmt: skip
def test_without_pictures_a_mark_is_text(row: dict, folder: Path) -> None:
    (record,) = read(in_file(folder, row))
    assert record["images"] == []
    assert record["messages"][0]["content"] == row["prompt"]


def test_a_solution_beside_messages_means_nothing(folder: Path) -> None:
    row = {"problem": "1 + 1?", "solution": "It is 2.", "messages": [user(text("1+1?")),
                                                                     assistant("2")]}  # fmt: skip
    (record,) = read(in_file(folder, row))
    assert record["completion"] == "2"


def test_other_lists_are_left_alone(folder: Path) -> None:
    row = {"prompt": "a", "completion": "b", "notes": [{"content": ["x", 1]}]}
    assert len(read(in_file(folder, row))) == 1


def test_paths_of_every_kind(folder: Path) -> None:
    (folder / "a b#1.png").write_bytes(RED)
    address = (folder / "a b#1.png").as_uri()
    rows = [{"prompt": "<image>?", "completion": str(n), "image": name}
            for n, name in enumerate([address, str(folder / "red.png"), "a b#1.png",
                                      {"bytes": None, "path": "red.png"}])]  # fmt: skip
    found = [record["images"] for record in read(in_file(folder, *rows))]
    names = ["a b#1.png", "red.png", "a b#1.png", "red.png"]
    assert found == [[str(folder / name)] for name in names]


def test_bytes_become_files_named_after_their_content(folder: Path, tmp_path: Path) -> None:
    jpeg = drawn("blue", "jpeg")
    column = [{"bytes": RED, "path": "gone.png"}, {"bytes": jpeg, "path": None}]
    rows = [{"prompt": ASKED, "completion": "1", "images": column}] * 2
    file, cache = folder / "rows.parquet", tmp_path / "cache" / "images"
    parquet.write_table(pa.Table.from_pylist(rows), file)
    records = read(file, cache=cache)
    names = [f"{hashlib.sha256(RED).hexdigest()}.png", f"{hashlib.sha256(jpeg).hexdigest()}.jpeg"]
    assert [r["images"] for r in records] == [[str(cache / name) for name in names]] * 2
    assert [(cache / name).read_bytes() for name in names] == [RED, jpeg]
    assert sorted(p.name for p in cache.iterdir()) == sorted(names)


def test_bare_bytes_and_data_addresses(folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "<image>?", "completion": "1", "image": RED}]
    file, cache = folder / "rows.parquet", tmp_path / "images"
    parquet.write_table(pa.Table.from_pylist(rows), file)
    parts = user({"type": "image_url", "image_url": {"url": URI}}, text("?"))
    talk = in_file(folder, {"messages": [parts, assistant("1")]})
    (one,), (other,) = read(file, cache=cache), read(talk, cache=cache)
    assert one["images"] == other["images"]
    assert Path(one["images"][0]).read_bytes() == RED


def test_a_data_set_of_the_hub_brings_bytes(folder: Path, tmp_path: Path) -> None:
    features = Features({"images": List(Image()), "prompt": Value("string"),
                         "completion": Value("string")})  # fmt: skip
    both = [str(folder / name) for name in BOTH]
    rows = Dataset.from_list([{**PAIR, "images": both}], features=features)
    (tmp_path / "hub").mkdir()
    rows.to_parquet(tmp_path / "hub" / "train.parquet")
    (record,) = read(HubData(str(tmp_path / "hub")), cache=tmp_path / "images")
    assert [Path(file).read_bytes() for file in record["images"]] == [RED, BLUE]


def test_a_row_that_lacks_its_picture_can_be_skipped(folder: Path) -> None:
    rows = [{"idx": 1, **PAIR, "images": ["gone.png", "red.png"]},
            {"idx": 1, **PAIR, "images": BOTH}]  # fmt: skip
    (record,) = read(in_file(folder, *rows), on_bad_row="skip")
    assert record["images"] == [str(folder / name) for name in BOTH]


def chat(*parts: Any, answer: Any = "1", **keys: Any) -> dict:
    return {"messages": [user(*parts), assistant(answer)], **keys}


RED_PART = image(image="red.png")
BAD = [
    ({**PAIR, "images": ["red.png"]}, "2 <image> and the row has 1"),
    ({**PAIR, "images": [*BOTH, "red.png"]}, "2 <image> and the row has 3"),
    ({**PAIR, "prompt": "Which?", "image": "red.png"}, "0 <image> and the row has 1"),
    ({**PAIR, "images": BOTH, "system": "Look at <image>."}, "3 <image> and the row has 2"),
    ({**PAIR, "images": BOTH, "completion": "<image> 1"}, "the answer says <image>"),
    (chat(RED_PART, answer="1", images=[], other=1) | {"messages": [
        user(RED_PART), {**assistant("1"), "reasoning_content": "<image> is"}]}, "answer says"),
    ({**PAIR, "images": BOTH, "image": "red.png"}, "both 'images' and 'image'"),
    ({**PAIR, "images": ["red.png", "gone.png"]}, "no picture .*gone.png"),
    ({**PAIR, "images": ["red.png", "sub"]}, "no picture .*sub"),
    ({**PAIR, "images": ["red.png", base64.b64encode(RED * 9).decode()]}, "no picture"),
    ({**PAIR, "images": ["red.png", "a\0b"]}, "no picture"),
    ({**PAIR, "images": ["red.png", "~nobody-here/a.png"]}, "no picture"),
    ({**PAIR, "images": ["red.png", "http://[x/a.png"]}, "not on this machine; download it"),
    ({**PAIR, "images": ["red.png", "HTTPS://example.com/a.png"]}, "download it"),
    ({**PAIR, "images": ["red.png", "file://[x/a.png"]}, "no picture"),
    ({**PAIR, "images": ["red.png", 5]}, "a picture is a path.*this is 5"),
    ({**PAIR, "images": ["red.png", None]}, "a picture is a path.*this is None"),
    ({**PAIR, "images": ["red.png", " "]}, "a picture is a path"),
    ({**PAIR, "images": ["red.png", {"file": "x"}]}, "a picture is a path"),
    ({**PAIR, "images": ["red.png", {"bytes": None, "path": None}]}, "a picture is a path"),
    ({**PAIR, "images": ["red.png", "data:image/png;base64,%%%"]}, "data: URI is broken"),
    ({**PAIR, "images": ["red.png", "data:image/png,abc"]}, "not base64"),
    ({**PAIR, "images": ["red.png", "data:image/png;base64,YWJj"]}, "bytes are none"),
    ({**PAIR, "images": ["red.png", "data:image/png;base64,"]}, "bytes are none"),
    (chat(RED_PART, text("<image>?")), "a text beside pictures says <image>"),
    (chat({"type": "video", "video": "a.mp4"}), "part of type 'video'"),
    (chat({"type": "input_audio", "input_audio": {}}), "part of type 'input_audio'"),
    (chat({"type": ["image"]}), "part of type"),
    (chat({"text": "Which?"}), "part of type None"),
    (chat("Which?"), "part of type None"),
    (chat({"type": "text", "text": None}), "type 'text' has no text"),
    (chat({**text("Which?"), "image": "red.png"}), "'image' in a part of type 'text'"),
    (chat(image(image="red.png", max_pixels=99)), "'max_pixels' in a part of type 'image'"),
    (chat(image(image="red.png", path="red.png")), "several sources"),
    (chat(image()), "picture without a source"),
    (chat(RED_PART, image()), "some without a source"),
    (chat(RED_PART, image(), images=["red.png"]), "both in the messages and in a column"),
    (chat(RED_PART, images=["red.png"]), "both in the messages and in a column"),
    (chat(image(), image(), images=["red.png"]), "2 <image> and the row has 1"),
    (chat({"type": "image_url", "image_url": {"url": None}}), "a picture is a path"),
    (chat({"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}), "download it"),
    (chat(text("Draw."), answer=[RED_PART]), "the answer says <image>"),
    (chat(text("Draw."), answer=[image()], images=["red.png"]), "the answer says <image>"),
    (chat(text(" ")), "'content' is empty"),
    ({"messages": [{**user(text("a")), "images": ["red.png"]}, assistant("1")]}, "not read"),
    ({"problem": ASKED, "images": BOTH}, "'solution' is missing"),
    ({**PAIR, "images": BOTH, "video": "a.mp4"}, "'video' is not read"),
]  # fmt: skip
BAD_PAIRS = [
    ({"prompt": ASKED, **SIDES, "images": ["red.png"]}, "2 <image> and the row has 1"),
    ({"prompt": ASKED, **SIDES, "images": ["red.png", "gone.png"]}, "no picture .*gone.png"),
    ({"prompt": ASKED, **SIDES, "rejected": "<image>", "images": BOTH}, "answer says <image>"),
    ({"chosen": [PARTS, assistant("1")],
      "rejected": [user(RED_PART, RED_PART, text("Which one is red?")), assistant("2")]},
     "'rejected' has other pictures"),
    ({"prompt": [user(text("a"))], "chosen": [assistant([RED_PART])],
      "rejected": [assistant("2")]}, "the answer says <image>"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("row", "fault", "preferences"),
    [*((*bad, False) for bad in BAD), *((*bad, True) for bad in BAD_PAIRS)],
)
def test_what_is_refused(
    row: dict, fault: str, preferences: bool, folder: Path, tmp_path: Path
) -> None:
    good = {"prompt": "a", **SIDES} if preferences else {"prompt": "a", "completion": "b"}
    file = in_file(folder, good, row)
    with pytest.raises(UserError, match=f"rows.jsonl:2: .*{fault}") as error:
        read(file, preferences, cache=tmp_path / "images")
    (line,) = error.value.lines()
    assert len(line) < 700


def test_bad_pictures_of_parquet(folder: Path, tmp_path: Path) -> None:
    rows = [{"prompt": "<image>?", "completion": "1", "image": {"bytes": b"abc", "path": None}}]
    parquet.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    with pytest.raises(UserError, match=r"rows.parquet:1: a picture's bytes are none"):
        read(folder / "rows.parquet", cache=tmp_path / "images")
    assert not (tmp_path / "images").exists()


def test_a_row_of_the_hub_has_no_folder(tmp_path: Path) -> None:
    row = {"prompt": "<image>?", "completion": "1", "images": ["a.png"]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=r":1: a.png is relative to no file"):
        read(HubData(str(tmp_path)), cache=tmp_path / "images")
