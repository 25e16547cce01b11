"""What a row says: what is read, what means nothing, and what is refused rather than dropped."""

from typing import Any

import pytest

from wdl.data.rows import RowError
from wdl.data.schemas import EmptyAnswerError, parse_row

PAIR = {"instruction": "1+1?", "output": "2"}
QUESTION = {"role": "user", "content": "1+1?"}
ANSWER = {"role": "assistant", "content": "2"}
SYSTEM = {"role": "system", "content": "Digits only."}
ASKED = (("human", "1+1?"), ("gpt", "2"))
CALL = {"type": "function", "function": {"name": "add", "arguments": "{}"}}


def chat(*messages: dict, **keys: Any) -> dict:
    return {"messages": list(messages), **keys}


def answered(**keys: Any) -> dict:
    return chat(QUESTION, {**ANSWER, **keys})


def sharegpt(*turns: tuple[str, str], **keys: Any) -> dict:
    return {"conversations": [{"from": who, "value": said} for who, said in turns], **keys}


@pytest.mark.parametrize(
    ("row", "before"),
    [
        ({**PAIR, "history": [["0+1?", "1"], ["And?", "Nothing."]]}, 4),
        ({**PAIR, "history": []}, 0),
        ({**PAIR, "history": None, "system": "", "tools": [], "images": {}}, 0),
        ({**PAIR, "system": "Digits only."}, 1),
        ({**PAIR, "system_prompt": "Digits only."}, 1),
        ({**PAIR, "system": "Digits only.", "history": [["0+1?", "1"]]}, 3),
        (chat(QUESTION, ANSWER, system="Digits only."), 1),
        (chat(SYSTEM, QUESTION, ANSWER, system="Digits only."), 1),
        (sharegpt(*ASKED), 0),
        (sharegpt(("system", "x"), ("human", "0"), ("gpt", "1"), *ASKED), 3),
        ({"conversations": [QUESTION, ANSWER]}, 0),
        (sharegpt(*ASKED, system="Digits only."), 1),
        (chat(QUESTION, ANSWER, prompt="1+1?", instruction=" 1+1?\n"), 0),  # says it again
        (chat({**QUESTION, "weight": 0}, {**ANSWER, "weight": 1.0}), 0),
        (chat(QUESTION, {**ANSWER, "weight": 0}, QUESTION, {**ANSWER, "train": True}), 2),
        ({**PAIR, "weight": 1, "train": True}, 0),
        (answered(tool_calls=None, function_call=None, reasoning_content="", name="x"), 0),
        (answered(reasoning_content="2"), 0),  # in the text anyway
    ],
)  # fmt: skip
def test_what_is_read(row: dict, before: int) -> None:
    record = parse_row(row)
    assert (record["messages"][-1], record["completion"]) == (QUESTION, "2")
    assert len(record["messages"]) - 1 == before
    assert record["thought"] == ""


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking", "thought"])
def test_a_thought_beside_the_answer(key: str) -> None:
    assert parse_row(answered(**{key: "One and one."}))["thought"] == "One and one."


@pytest.mark.parametrize(
    "keys",
    [
        {"id": "7", "source": "x", "answer": "2", "text": "### 1+1?", "info": {"think": "..."}},
        {"meta": {"system": "x"}, "score": 0.5, "tags": ["a"], "response": "x", "chosen": []},
        {"is_reasoning_complete": [True, False], "num_tools": 3, "image_count": 0},
        {"function_name": "add", "tool_ids": ["a"], "reasoning_model": "r1", "document_id": "d1"},
        {"contextual": "x", "systematic": "x", "weighted": "x", "latest_train": "x"},
    ],
)
def test_keys_that_mean_nothing(keys: dict) -> None:
    for row in (PAIR, chat(QUESTION, ANSWER), answered(**keys)):
        assert parse_row({**row, **keys})["completion"] == "2"


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({**PAIR, "messages": [QUESTION, ANSWER]}, "several schemas, instruction and messages"),
        ({**PAIR, "prompt": "a", "completion": "b"}, "several schemas, instruction and prompt"),
        ({**sharegpt(("human", "a"), ("gpt", "b")), **chat(QUESTION, ANSWER)}, "several schemas"),
        (chat(QUESTION, ANSWER, instruction="Be brief."), "'instruction' is not read"),
        ({**PAIR, "prompt": "Be brief."}, "'prompt' is not read"),
        (chat(QUESTION, ANSWER, input="1+1"), "'input' is not read"),
        (chat(SYSTEM, QUESTION, ANSWER, system="Other."), "say different things"),
        ({**PAIR, "system": "a", "system_prompt": "b"}, "say different things"),
        ({**PAIR, "system": 5}, "'system' is a number"),
        ({**PAIR, "history": "none"}, "history must be a list"),
        ({**PAIR, "history": [["a"]]}, "history must be a list"),
        ({**PAIR, "history": [["a", 5]]}, "'history' is a number"),
        (chat(QUESTION, ANSWER, history=[["a", "b"]]), "'history' is not read"),
        ({**PAIR, "tools": [{"name": "add"}]}, "'tools' is not read"),
        ({**PAIR, "tools": '[{"name": "add"}]'}, "'tools' is not read"),
        ({**PAIR, "functions": [{"name": "add"}]}, "'functions' is not read"),
        ({**PAIR, "images": ["a.png"]}, "have 0 <image> and the row has 1"),
        ({**PAIR, "image": {"bytes": b"..", "path": None}}, "have 0 <image> and the row has 1"),
        ({**PAIR, "videoPath": "a.mp4"}, "'videoPath' is not read"),
        ({**PAIR, "context": "x is 1"}, "'context' is not read"),
        ({**PAIR, "reasoning_content": "x"}, "'reasoning_content' is not read"),
        ({**PAIR, "enable_thinking": False}, "'enable_thinking' is not read"),
        ({**PAIR, "chat_template_kwargs": {"enable_thinking": False}}, "'chat_template_kwargs'"),
        ({**PAIR, "sample_weight": 2}, "'sample_weight' is not read"),
        ({**PAIR, "loss_mask": [0, 1]}, "'loss_mask' is not read"),
        ({**PAIR, "weight": 0.5}, "'weight' is 0.5"),
        ({**PAIR, "train": False}, "'train' is False"),
        (answered(weight=0), "message 2: 'weight' is 0"),
        (answered(weight=0.5), "message 2: 'weight' is 0.5"),
        (answered(loss=False), "message 2: 'loss' is False"),
        (chat(QUESTION, {**ANSWER, "weight": 1}, QUESTION, ANSWER), "message 2: 'weight' is 1"),
        (answered(tool_calls=[CALL]), "message 2: 'tool_calls' is not read"),
        (answered(content=None, tool_calls=[CALL]), "message 2: 'tool_calls' is not read"),
        (answered(function_call=CALL["function"]), "message 2: 'function_call' is not read"),
        (answered(thinking="a", reasoning="b"), "hold a second thought"),
        (chat(QUESTION, {**ANSWER, "content": "<think>a</think>2", "thought": "b"}), "second"),
        (chat(QUESTION, {**ANSWER, "reasoning": "x"}, QUESTION, ANSWER), "message 2: 'reasoning'"),
        (chat({**QUESTION, "images": ["a.png"]}, ANSWER), "message 1: 'images' is not read"),
        (chat({**QUESTION, "content": [{"type": "video", "video": "a"}]}, ANSWER), "type .video"),
        (sharegpt(("human", "a"), ("function_call", "{}"), ("gpt", "b")), "'function_call' is unk"),
        (sharegpt(("human", "a"), ("gpt", "b"), ("human", "c")), "last message must be"),
    ],
)  # fmt: skip
def test_what_is_refused(row: dict, fault: str) -> None:
    with pytest.raises(RowError, match=fault) as error:
        parse_row(row)
    assert not isinstance(error.value, EmptyAnswerError)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "completion": " "},
        {"instruction": "", "prompt": "a", "completion": ""},
        sharegpt(("human", "a"), ("gpt", "")),
    ],
)
def test_an_empty_answer_is_no_fault(row: dict) -> None:
    with pytest.raises(EmptyAnswerError):
        parse_row(row)
