"""The sets of a dataset_info.json: every form that is read, and one line for each fault."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wdl.config.paths import is_hub_data
from wdl.data.corpus import Corpus
from wdl.data.dataset_info import listed_sets
from wdl.data.preference_schemas import parse_preferences
from wdl.data.records import RecordReader
from wdl.data.rows import data_parts
from wdl.data.schemas import Record
from wdl.errors import UserError

Lay = Callable[..., Path]
SHAREGPT = {"formatting": "sharegpt"}
TURNS = [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]
RANKED = {"conversations": TURNS[:1], "chosen": TURNS[1], "rejected": {"from": "gpt", "value": "3"}}
RANKING = {"ranking": True, "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}}


@pytest.fixture
def lay(tmp_path: Path) -> Lay:
    """A function that writes sets, each with its rows, and their listing."""

    def write(**sets: tuple[dict, list]) -> Path:
        listing = {}
        for name, (said, rows) in sets.items():
            listing[name] = {"file_name": f"{name}.json", **said}
            (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        (tmp_path / "dataset_info.json").write_text(json.dumps(listing, indent=1))
        return tmp_path

    return write


def read(path: Path | str, preferences: bool = False) -> list[Record]:
    parts = data_parts(str(path))
    reader = RecordReader(parts, parse=parse_preferences) if preferences else RecordReader(parts)
    return [record for _, record in reader]


@pytest.mark.parametrize(
    ("said", "row", "asked"),
    [
        ({}, {"instruction": "1+1?", "input": "", "output": "2"}, ["1+1?"]),
        ({"formatting": "alpaca", "ranking": False},
         {"instruction": "Add.", "input": "1+1", "output": "2"}, ["Add.\n\n1+1"]),
        ({"columns": {"prompt": "q", "query": "more", "response": "a", "history": "before",
                      "system": "rule"}},
         {"q": "Add.", "more": "1+1", "a": "2", "before": [["0+1?", "1"]], "rule": "Digits.",
          "instruction": "not this", "tools": '["x"]'},
         ["Digits.", "0+1?", "1", "Add.\n\n1+1"]),
        (SHAREGPT, {"conversations": TURNS}, ["1+1?"]),
        ({**SHAREGPT, "columns": {"messages": "talk", "system": "rule", "tools": "tools"},
          "tags": {"role_tag": "who", "content_tag": "said", "user_tag": "me",
                   "assistant_tag": "you", "system_tag": "law"}},
         {"talk": [{"who": "me", "said": "1+1?"}, {"who": "you", "said": "2"}],
          "rule": "Digits.", "tools": ""},
         ["Digits.", "1+1?"]),
        ({**SHAREGPT, "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user",
                               "assistant_tag": "assistant"}},
         {"conversations": [{"role": "system", "content": "Digits."},
                            {"role": "user", "content": "1+1?"},
                            {"role": "observation", "content": "It is 2."},
                            {"role": "assistant", "content": "2"}]},
         ["Digits.", "1+1?", "It is 2."]),
    ],
)  # fmt: skip
def test_what_is_read(said: dict, row: dict, asked: list[str], lay: Lay) -> None:
    (record,) = read(lay(sums=(said, [row])))
    assert [message["content"] for message in record["messages"]] == asked
    assert record["completion"] == "2"


def test_tags_say_who_speaks(lay: Lay) -> None:
    tags = {"user_tag": "gpt", "assistant_tag": "human"}
    turns = [{"from": "gpt", "value": "1+1?"}, {"from": "human", "value": "2"}]
    (record,) = read(lay(turned=({**SHAREGPT, "tags": tags}, [{"conversations": turns}])))
    assert record["messages"] == [{"role": "user", "content": "1+1?"}]


@pytest.mark.parametrize(
    ("said", "row"),
    [
        (RANKING, {"q": "1+1?", "good": "2", "bad": "3"}),
        ({**SHAREGPT, "ranking": True, "columns": {
            "messages": "conversations", "chosen": "chosen", "rejected": "rejected"}}, RANKED),
    ],
)  # fmt: skip
def test_preferences(said: dict, row: dict, lay: Lay) -> None:
    answers = read(lay(ranked=(said, [row])), preferences=True)
    assert [(a["messages"][0]["content"], a["completion"]) for a in answers] == [
        ("1+1?", "2"),
        ("1+1?", "3"),
    ]


def test_pictures_are_relative_to_the_listing(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "png")
    (tmp_path / "red.png").write_bytes(stream.getvalue())
    (tmp_path / "rows").mkdir()
    turns = [{"from": "human", "value": "<image>What?"}, {"from": "gpt", "value": "Red."}]
    row = {"conversations": turns, "pictures": ["red.png"]}
    (tmp_path / "rows" / "a.jsonl").write_text(json.dumps(row))
    said = {"messages": "conversations", "images": "pictures"}
    listing = {"seen": {"file_name": "rows", **SHAREGPT, "columns": said}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(listing))
    (record,) = read(tmp_path)
    assert record["images"] == [str(tmp_path / "red.png")]
    row["pictures"] = ["blue.png"]
    (tmp_path / "rows" / "a.jsonl").write_text(json.dumps(row))
    with pytest.raises(UserError, match=r"rows/a.jsonl:1: there is no picture .*/blue.png"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("path", "read_ones"),
    [
        ("", "ab"), (":a", "a"), (":b,a", "ba"), ("/dataset_info.json", "ab"),
        ("/dataset_info.json:b", "b"), ("/a.json", "a"),
    ],
)  # fmt: skip
def test_which_sets_a_path_means(path: str, read_ones: str, lay: Lay) -> None:
    folder = lay(**{n: ({}, [{"instruction": "?", "output": n}]) for n in "ab"})
    assert "".join(record["completion"] for record in read(f"{folder}{path}")) == read_ones


def test_a_listed_set_is_not_looked_for_on_the_hub(
    lay: Lay, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = lay(a=({}, [{"instruction": "?", "output": "a"}]))
    monkeypatch.chdir(folder.parent.parent)
    name = str(folder.relative_to(folder.parent.parent))
    assert not is_hub_data(f"{name}:a")
    assert is_hub_data("somebody/else:a")


def test_a_folder_of_the_datasets_library_is_no_listing(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text('{"citation": "", "features": {}}')
    assert listed_sets(str(tmp_path)) is None


def test_what_the_listing_says_is_part_of_the_digest(lay: Lay, architecture: Path) -> None:
    def digest(response: str) -> str:
        said = {"columns": {"prompt": "q", "response": response}}
        folder = lay(sums=(said, [{"q": "?", "a": "1", "b": "2"}]))
        return Corpus(str(folder), str(architecture), folder / "cache").data_digest

    assert digest("a") == digest("a") != digest("b")


BAD = [
    ({"hf_hub_url": "a/b"}, "hf_hub_url is not followed; download it"),
    ({"ms_hub_url": "a/b"}, "ms_hub_url is not followed"),
    ({"script_url": "x.py"}, "script_url is not followed"),
    ({"num_samples": 5}, "'num_samples' is not read"),
    ({"file_name": None}, "no file_name"),
    ({"file_name": ["a.json"]}, "no file_name"),
    ({"file_name": "gone.json"}, "no file .*gone.json; check file_name"),
    ({"formatting": "openai"}, "formatting 'openai' is not read; use alpaca or sharegpt"),
    ({"formatting": ["alpaca"]}, "formatting .* is not read"),
    ({"ranking": "yes"}, "ranking is 'yes'; write true or false"),
    ({"columns": ["prompt"]}, "columns must be an object of names"),
    ({"columns": {"prompt": "q", "response": 5}}, "'response' in columns must be a name"),
    ({"columns": {"prompt": "q", "answer": "a"}}, "'answer' in columns is not read; use prompt"),
    ({"columns": {"prompt": "q", "response": "a", "videos": "v"}}, "'videos' in columns is not"),
    ({"columns": {"messages": "m"}}, "'messages' in columns is not read"),
    ({"columns": {"prompt": "q"}}, "columns does not say which is 'response'"),
    ({"columns": {"prompt": "q", "response": "q"}}, "two columns have the same name"),
    ({"columns": {"prompt": "q", "response": "a", "chosen": "c"}}, 'need "ranking": true'),
    ({"ranking": True}, "columns does not say which is 'chosen'"),
    ({"tags": {"role_tag": "who"}}, "take formatting sharegpt"),
    ({**SHAREGPT, "columns": {"images": "i"}}, "columns does not say which is 'messages'"),
    ({**SHAREGPT, "columns": {"messages": "m", "kto_tag": "k"}}, "'kto_tag' in columns is not"),
    ({**SHAREGPT, "tags": {"bot_tag": "b"}}, "'bot_tag' in tags is not read; use role_tag"),
    ({**SHAREGPT, "tags": {"user_tag": "gpt"}}, "two roles have the same tag"),
    ({**SHAREGPT, "tags": {"user_tag": ""}}, "'user_tag' in tags must be a name"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "fault"), BAD)
def test_what_a_listing_may_not_say(said: dict, fault: str, lay: Lay) -> None:
    folder = lay(good=({}, []), bad=(said, []))
    with pytest.raises(UserError, match=f"dataset_info.json:5: 'bad': .*{fault}") as error:
        data_parts(str(folder))
    assert len(error.value.lines()) == 1


@pytest.mark.parametrize(
    ("text", "name", "fault"),
    [
        ('{"a": {\n"file_name" 5}}', "", r"dataset_info.json:2: broken JSON"),
        ("[]", ":a", r"dataset_info.json:1: it lists no data sets"),
        ('{"a": 5}', "/dataset_info.json", r"dataset_info.json:1: it lists no data sets"),
        ("{}", "", r"dataset_info.json:1: it lists no data sets; give it one"),
        ('{"a": {}}', ":b", r"dataset_info.json:1: 'b': there is no such set, only a"),
        (None, ":b", r":b: there is no such file or folder"),
    ],
)
def test_what_is_no_listing(text: str | None, name: str, fault: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "dataset_info.json").write_text(text)
    with pytest.raises(UserError, match=fault) as error:
        data_parts(f"{tmp_path}{name}")
    assert len(error.value.lines()) == 1


@pytest.mark.parametrize(
    ("said", "rows", "preferences", "fault"),
    [
        (RANKING, [{"q": "?", "good": "2", "bad": "3"}] * 3, False, r"_info.json:2: 'x' holds pre"),
        ({}, [{"instruction": "?", "output": "1"}] * 3, True, r"_info.json:2: 'x' holds no pref"),
        ({"columns": {"prompt": "q", "response": "a", "tools": "t"}},
         [{"q": "?", "a": "1", "t": '[{"name": "add"}]'}], False, r"x.json:1: 'tools' is not read"),
        (SHAREGPT, [{"conversations": [{"from": "me", "value": "?"}, TURNS[1]]}], False,
         r"x.json:1: message 1: role 'me' is unknown"),
        (SHAREGPT, [{"conversations": [TURNS[0], {"from": "function_call", "value": "{}"},
                                       *TURNS]}], False, r"message 2: role 'function_call' is unk"),
        ({**SHAREGPT, "tags": {"content_tag": "said"}}, [{"conversations": TURNS}], False,
         r"x.json:1: message 1: 'content' is missing"),
        (SHAREGPT, [{"conversations": [{"from": ["human"], "value": "?"}, TURNS[1]]}], False,
         r"message 1: 'role' is a list"),
        (SHAREGPT, [{"conversations": "1+1?"}], False, r"messages must be a list"),
        (SHAREGPT, ["a"], False, r"x.json:1: a row is an object, this is a text"),
        ({"columns": {"prompt": "q", "response": "a"}}, [{"q": "?", "b": "1"}], False,
         r"x.json:1: 'output' is missing"),
    ],
)  # fmt: skip
def test_bad_rows(said: dict, rows: list[Any], preferences: bool, fault: str, lay: Lay) -> None:
    with pytest.raises(UserError, match=fault) as error:
        read(lay(x=(said, rows)), preferences)
    assert len(error.value.lines()) == 1
