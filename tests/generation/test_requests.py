"""Prompts are those of the training, and fit the model."""

import pytest
from conftest import encode
from transformers import PreTrainedTokenizerBase

from wdl.errors import UserError
from wdl.generation.protocols import PROTOCOLS, Protocol
from wdl.generation.requests import Request, check_context, render
from wdl.questions.problems import Problem

PROBLEMS = [Problem("a", "1+1?", "2"), Problem("b", "2+2?", "4")]


def test_the_prompt_is_that_of_the_training(tokenizer: PreTrainedTokenizerBase) -> None:
    trained = encode(tokenizer, [{"role": "user", "content": "1+1?"}], "2", end_token=0)
    (first, _) = render(tokenizer, PROBLEMS, PROTOCOLS["quick"])
    assert first.prompt == trained["input_ids"][: trained["prompt_length"]]


def test_the_system_prompt_comes_first(tokenizer: PreTrainedTokenizerBase) -> None:
    (first, _) = render(tokenizer, PROBLEMS, PROTOCOLS["paper"])
    text = str(tokenizer.decode(first.prompt))
    assert text.startswith("<|im_start|>system\nYou are a helpful assistant.")
    assert text.endswith("<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n")


def test_each_sample_is_a_request(tokenizer: PreTrainedTokenizerBase) -> None:
    requests = render(tokenizer, PROBLEMS, Protocol("two", samples=2, temperature=1.0))
    assert [request.key for request in requests] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


def test_too_little_context_is_refused_with_the_numbers() -> None:
    requests = [Request("a", 0, [1] * 10), Request("b", 0, [1] * 100)]
    check_context(requests, new_tokens=28, context=128, place="x")
    with pytest.raises(
        UserError,
        match="x: a prompt of 100 tokens and 29 new ones need 129, the model's context is",
    ):
        check_context(requests, new_tokens=29, context=128, place="x")
