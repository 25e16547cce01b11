"""Tokens and completion mask: the answer verbatim, one end token, labels where they predict."""

from collections.abc import Callable

import pytest
import torch
from conftest import encode
from transformers import PreTrainedTokenizerBase

from wdl.constants import IGNORE_INDEX
from wdl.data.batches import Batch, collate, collate_pack, completion_tokens
from wdl.data.encoding import Encoded, compose, encode_prompt, end_of_turn
from wdl.data.rows import RowError
from wdl.data.schemas import Record
from wdl.errors import UserError

QUESTION = [{"role": "user", "content": "1+1?"}]


def test_prompt_then_answer_then_one_end(tokenizer: PreTrainedTokenizerBase) -> None:
    answer = "<think>1+1</think> <answer>2</answer>"
    sample = encode(tokenizer, QUESTION, answer, end_of_turn(tokenizer))
    prompt, completion = (
        tokenizer.decode(part)
        for part in (
            sample["input_ids"][: sample["prompt_length"]],
            sample["input_ids"][sample["prompt_length"] :],
        )
    )
    assert prompt == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    assert completion == answer + "<|im_end|>"


def test_without_a_system_prompt_there_is_no_system_message(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert "system" not in tokenizer.decode(encode_prompt(tokenizer, QUESTION))


CHATML = (
    "{% for m in messages %}{{'<|im_start|>'+m.role+'\n'+m.content+'<|im_end|>\n'}}{% endfor %}"
)
PROMPT = "{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
OPENED = PROMPT.replace("assistant\n", "assistant\n<think>\n")
# as Qwen3 does; its last answer has a block even where there is no thought
THOUGHTS = CHATML.replace(
    "m.content",
    "('<think>\n'+m.reasoning_content+'\n</think>\n\n' if m.reasoning_content else '')+m.content",
)
THOUGHT = "One and one."


@pytest.mark.parametrize(
    ("answer", "trained"),
    [
        ("<think>\n1+1\n</think>\n\n2", "1+1\n</think>\n\n2"),
        ("\n<think>1+1</think>2", "1+1</think>2"),
        ("1+1\n</think>\n\n2", "1+1\n</think>\n\n2"),
    ],
)
def test_a_thought_that_the_prompt_opens_is_not_opened_again(
    answer: str, trained: str, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", CHATML + OPENED)
    record: Record = {"messages": QUESTION, "completion": answer, "thought": "", "images": []}
    prompt, text = compose(tokenizer, record, end_of_turn(tokenizer))
    assert (prompt[-25:], text) == ("<|im_start|>assistant\n<think>\n"[-25:], trained)


def test_an_answer_that_never_closes_the_thought_is_refused(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", CHATML + OPENED)
    with pytest.raises(RowError, match="begins each answer with <think>, and this one never"):
        encode(tokenizer, QUESTION, "2", 0)


@pytest.mark.parametrize("opened", [False, True])
def test_a_thought_beside_the_answer_is_put_where_the_template_puts_it(
    opened: bool, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = THOUGHTS + (OPENED if opened else PROMPT)
    monkeypatch.setattr(tokenizer, "chat_template", template)
    record: Record = {
        "messages": QUESTION,
        "completion": "2",
        "thought": "One and one.",
        "images": [],
    }
    prompt, answer = compose(tokenizer, record, end_of_turn(tokenizer))
    assert prompt.endswith("<think>\n") == opened
    begin = "" if opened else "<think>\n"
    assert answer == begin + "One and one.\n</think>\n\n2"


@pytest.mark.parametrize("template", [CHATML, THOUGHTS.replace("<|im_start|>", "", 1)])
def test_a_thought_that_the_template_drops_or_misplaces_is_refused(
    template: str, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template + PROMPT)
    record: Record = {
        "messages": QUESTION,
        "completion": "2",
        "thought": "One and one.",
        "images": [],
    }
    with pytest.raises(RowError, match="does not render the thought"):
        compose(tokenizer, record, tokenizer.eos_token_id)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}", "<|endoftext|>"),
        ("{% for m in messages %}{{ m.content }}\n<|im_end|>\n{% endfor %}", "<|im_end|>"),
        ("{% for m in messages %}{{ m.content }}\n\n{% endfor %}", "<|im_end|>"),  # eos
    ],
)
def test_the_template_says_how_a_turn_ends(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", template)
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids(expected)


def test_no_chat_template_is_refused(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(UserError, match="no chat template"):
        end_of_turn(tokenizer)


def test_labels_stand_where_they_are_predicted() -> None:
    samples: list[Encoded] = [
        {"input_ids": [10, 11, 12, 13, 14], "prompt_length": 3},
        {"input_ids": [20, 21], "prompt_length": 1},
    ]
    batch = collate(samples, [5, 6], pad_token=0, denominator=3)
    ignore = IGNORE_INDEX
    assert batch["input_ids"].tolist() == [[10, 11, 12, 13, 14], [20, 21, 0, 0, 0]]
    assert batch["attention_mask"] is not None
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch["labels"].tolist() == [
        [ignore, ignore, 13, 14, ignore],
        [21, ignore, ignore, ignore, ignore],
    ]
    assert batch["sample_ids"].tolist() == [5, 6]


def test_a_pack_keeps_its_samples_apart() -> None:
    samples: list[Encoded] = [
        {"input_ids": [10, 11, 12, 13], "prompt_length": 2},
        {"input_ids": [20, 21], "prompt_length": 1},
    ]
    batch = collate_pack(samples, [5, 6], pad_token=0, denominator=3)
    ignore = IGNORE_INDEX
    assert batch["input_ids"].tolist() == [[10, 11, 12, 13, 20, 21]]
    # the last token of a sample predicts nothing, least of all the next sample's first
    assert batch["labels"].tolist() == [[ignore, 12, 13, ignore, 21, ignore]]
    assert batch["attention_mask"] is None
    assert batch["segments"]["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1]]
    assert batch["segments"]["cu_seq_lens_q"].tolist() == [0, 4, 6]
    assert batch["segments"]["max_length_q"] == 4


@pytest.mark.parametrize("put_together", [collate, collate_pack])
def test_completion_tokens_of_each_sample(put_together: Callable[..., Batch]) -> None:
    # the middle one is all prompt; the last one's first prediction stands at its first token
    parts = [(9, 3), (4, 4), (6, 1)]
    samples: list[Encoded] = [
        {"input_ids": list(range(length)), "prompt_length": prompt} for length, prompt in parts
    ]
    batch = put_together(samples, [0, 1, 2], 0, 11)
    assert completion_tokens(batch).tolist() == [6, 0, 5]
    assert completion_tokens(put_together([], [], 0, 1)).tolist() == [0]


def test_an_empty_micro_batch_counts_for_nothing() -> None:
    batch = collate([], [], pad_token=0, denominator=9)
    assert batch["input_ids"].shape == (1, 1)
    assert (batch["labels"] == IGNORE_INDEX).all()
    assert batch["input_ids"].dtype == torch.int64
