"""What a row of preferences says: every form people have, and what is refused with its line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wdl.data.preference_schemas import parse_preferences
from wdl.data.records import RecordReader
from wdl.data.rows import RowError
from wdl.data.schemas import EmptyAnswerError, parse_row
from wdl.errors import UserError


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str, **keys: Any) -> dict:
    return {"role": "assistant", "content": text, **keys}


def sharegpt(who: str, said: str) -> dict:
    return {"from": who, "value": said}


SYSTEM = {"role": "system", "content": "Digits only."}
QUESTION = user("1+1?")
BEFORE = [user("0+1?"), assistant("1"), QUESTION]
TEXTS = {"chosen": "2", "rejected": "3"}
PAIR = {"prompt": "1+1?", **TEXTS}
MESSAGES = {"chosen": [assistant("2")], "rejected": [assistant("3")]}
WHOLE = {"chosen": [QUESTION, assistant("2")], "rejected": [QUESTION, assistant("3")]}
ULTRAFEEDBACK = {
    "prompt": "1+1?",
    "prompt_id": "d1b2",
    **WHOLE,
    "messages": WHOLE["chosen"],
    "score_chosen": 8.5,
    "score_rejected": 3.0,
}
RANKING = {
    "conversations": [sharegpt("human", "1+1?")],
    "chosen": sharegpt("gpt", "2"),
    "rejected": sharegpt("gpt", "3"),
}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (PAIR, [QUESTION]),
        ({"question": "1+1?", **TEXTS}, [QUESTION]),
        ({"instruction": "1+1?", "input": "", "history": [], **TEXTS}, [QUESTION]),
        ({"instruction": "Add.", "input": "1+1", **TEXTS}, [user("Add.\n\n1+1")]),
        ({"instruction": "1+1?", "history": [["0+1?", "1"]], **TEXTS}, BEFORE),
        ({"system": "Digits only.", "question": "1+1?", **TEXTS}, [SYSTEM, QUESTION]),
        ({"prompt": [QUESTION], **MESSAGES}, [QUESTION]),
        ({"prompt": [SYSTEM, *BEFORE], **MESSAGES}, [SYSTEM, *BEFORE]),
        ({"prompt": "1+1?", **MESSAGES}, [QUESTION]),
        ({"messages": BEFORE, **TEXTS}, BEFORE),
        (WHOLE, [QUESTION]),
        ({side: [*BEFORE, assistant(text)] for side, text in TEXTS.items()}, BEFORE),
        ({**WHOLE, "system": "Digits only."}, [SYSTEM, QUESTION]),
        ({**WHOLE, "prompt": [QUESTION], "question": " 1+1?"}, [QUESTION]),
        (ULTRAFEEDBACK, [QUESTION]),
        (RANKING, [QUESTION]),
        ({**RANKING, "system": "Digits only."}, [SYSTEM, QUESTION]),
        ({**PAIR, "images": [], "tools": None, "source": "x", "weight": 1}, [QUESTION]),
        ({**PAIR, "prompt_id": "a", "all_chosen": ["x"], "chosen_model": "y"}, [QUESTION]),
    ],
)  # fmt: skip
def test_what_is_read(row: dict, messages: list[dict]) -> None:
    assert parse_preferences(row) == [
        {"messages": messages, "completion": "2", "thought": "", "images": [], "chosen": True},
        {"messages": messages, "completion": "3", "thought": "", "images": [], "chosen": False},
    ]


def test_lists_of_answers() -> None:
    row = {"question": "1+1?", "chosen": ["2", "two"], "rejected": ["3", "4", "5"]}
    answers = parse_preferences(row)
    assert [(a["completion"], a["chosen"]) for a in answers] == [
        *(("2", True), ("two", True)),
        *(("3", False), ("4", False), ("5", False)),
    ]


def test_thoughts_beside_answers() -> None:
    chosen = [QUESTION, assistant("2", reasoning_content="One and one.")]
    answers = parse_preferences({"chosen": chosen, "rejected": [QUESTION, assistant("2")]})
    assert [a["thought"] for a in answers] == ["One and one.", ""]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("1+1?", "a row is an object, this is a text"),
        ({"instruction": "1+1?", "output": "2"}, "no chosen and rejected answers, only 'instr"),
        ({"messages": WHOLE["chosen"]}, "for instruction data take sft.yaml or joint"),
        ({"instruction": "1+1?", "output": ["2", "3"]}, "no chosen and rejected answers"),
        ({"prompt": "1+1?", "completion": "2", "label": True}, "no chosen and rejected answers"),
        ({"prompt": "1+1?", "chosen": "2"}, "'rejected' is missing"),
        ({"prompt": "1+1?", "rejected": "3"}, "'chosen' is missing"),
        ({**PAIR, "rejected": 3}, "'rejected' is a number"),
        ({**PAIR, "rejected": ["3", 4]}, "'rejected' is a number"),
        ({**PAIR, "chosen": " 2 ", "rejected": "2\n"}, "the same answer is chosen and rejected"),
        ({**PAIR, "chosen": ["2", "3"]}, "the same answer is chosen and rejected"),
        (TEXTS, "the row has no question"),
        ({**PAIR, "prompt": " "}, "'prompt' is empty"),
        ({**PAIR, "prompt": []}, "prompt must be a list of messages"),
        ({**PAIR, "prompt": WHOLE["chosen"]}, "prompt ends with the assistant's message"),
        ({**PAIR, "prompt": [{"role": "king", "content": "x"}]}, "message 1: role 'king'"),
        ({**PAIR, "question": "1+2?"}, "'question' is not read"),
        ({**PAIR, "input": 5}, "'input' is a number"),
        ({**PAIR, "completion": "4"}, "'completion' is not read"),
        ({**PAIR, "history": "none"}, "history must be a list"),
        ({**PAIR, "images": ["a.png"]}, "have 0 <image> and the row has 1"),
        ({**PAIR, "tools": '[{"name": "add"}]'}, "'tools' is not read"),
        ({**PAIR, "chat_template_kwargs": {"x": 1}}, "'chat_template_kwargs' is not read"),
        ({**PAIR, "reasoning_content": "x"}, "'reasoning_content' is not read"),
        ({**PAIR, "weight": 0.5}, "'weight' is 0.5"),
        ({**PAIR, "prompt": [SYSTEM, QUESTION], "system": "Other."}, "say different things"),
        ({**WHOLE, "chosen": [user("1+2?"), assistant("2")]}, "answer different conversations"),
        ({**WHOLE, "chosen": [assistant("2")]}, "answer different conversations"),
        ({**WHOLE, "rejected": "3"}, "answer different conversations"),
        ({**WHOLE, "prompt": "1+2?"}, "'prompt' is not read"),
        ({**WHOLE, "prompt": [user("1+2?")]}, "'prompt' is not read"),
        ({**WHOLE, "question": "1+2?"}, "'question' is not read"),
        ({**WHOLE, "messages": BEFORE}, "'messages' is not read"),
        ({**WHOLE, "chosen": [QUESTION]}, "'chosen': the last message must be the assistant's"),
        ({**WHOLE, "chosen": [QUESTION, "2"]}, "'chosen': each message must be an object"),
        ({**WHOLE, "chosen": [QUESTION, assistant("2", tool_calls=["x"])]}, "message 2: 'tool_c"),
        ({**WHOLE, "chosen": [QUESTION, assistant("2", weight=0)]}, "message 2: 'weight' is 0"),
        ({**WHOLE, "chosen": [{**QUESTION, "images": ["a"]}, assistant("2")]}, "'chosen': message"),
        ({**PAIR, "chosen": "\ud800"}, "half a surrogate pair"),
    ],
)  # fmt: skip
def test_what_is_refused(row: Any, fault: str, write_rows: Callable[..., Path]) -> None:
    with pytest.raises(RowError, match=fault) as error:
        parse_preferences(row)
    assert not isinstance(error.value, EmptyAnswerError)
    file = write_rows([PAIR, row])
    with pytest.raises(UserError, match=r"rows.jsonl:2: .*" + fault) as line:
        list(RecordReader([file], parse=parse_preferences))
    assert len(line.value.lines()) == 1


@pytest.mark.parametrize(
    "row",
    [
        {**PAIR, "chosen": ""},
        {**PAIR, "rejected": []},
        {**PAIR, "rejected": ["3", " "]},
        {**WHOLE, "rejected": [QUESTION, assistant("")]},
        {**RANKING, "chosen": sharegpt("gpt", "")},
    ],
)
def test_an_empty_side_is_left_out_and_counted(row: dict, write_rows: Callable[..., Path]) -> None:
    with pytest.raises(EmptyAnswerError):
        parse_preferences(row)
    reader = RecordReader([write_rows([PAIR, row, PAIR])], parse=parse_preferences)
    assert len(list(reader)) == 4
    assert reader.idx().tolist() == [0, 0, 2, 2]
    assert reader.left_out.total == 1 and "rows.jsonl:2: " in reader.left_out[0]


def test_no_row_with_both_sides(write_rows: Callable[..., Path]) -> None:
    file = write_rows([{**PAIR, "rejected": []}, {**PAIR, "chosen": []}])
    with pytest.raises(UserError, match=r"rows.jsonl:1: 'rejected' holds no answer") as error:
        list(RecordReader([file], parse=parse_preferences))
    assert len(error.value.lines()) == 2


@pytest.mark.parametrize(
    "row", [PAIR, ULTRAFEEDBACK, RANKING, {"question": "1+1?", "chosen": ["2"], "rejected": ["3"]}]
)
def test_instruction_training_refuses_preferences(row: dict) -> None:
    with pytest.raises(RowError, match=r"the row holds preferences .*PreferenceDataModule"):
        parse_row(json.loads(json.dumps(row)))
