"""Encoded samples: the same from any cache, cut or dropped as asked, faults in one line."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import encode
from transformers import PreTrainedTokenizerBase

from wdl.constants import PAPER_SYSTEM_PROMPT
from wdl.data import corpus as module
from wdl.data.corpus import Corpus, column
from wdl.data.encoding import end_of_turn
from wdl.errors import UserError

ROWS = [{"prompt": f"{n}+{n}?", "completion": f"{2 * n}" * n} for n in range(1, 9)]


@pytest.fixture
def corpus(write_rows: Callable[..., Path], architecture: Path) -> Callable[..., Corpus]:
    def make(rows: list[dict] = ROWS, **settings: Any) -> Corpus:
        path = str(write_rows(rows))
        return Corpus(path, str(architecture), Path("cache"), **settings)

    return make


def test_samples_are_what_encode_gives(
    corpus: Callable[..., Corpus], tokenizer: PreTrainedTokenizerBase
) -> None:
    samples = corpus().samples
    end = end_of_turn(tokenizer)
    for row, sample in zip(ROWS, samples, strict=True):
        question = [{"role": "user", "content": row["prompt"]}]
        expected = encode(tokenizer, question, row["completion"], end)
        assert {key: sample[key] for key in expected} == expected
        assert sample["length"] == len(expected["input_ids"])


def test_worker_processes_change_nothing(
    corpus: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = corpus().samples.to_list()
    monkeypatch.setattr(module, "ROWS_PER_WORKER", 4)
    monkeypatch.setattr(module.os, "cpu_count", lambda: 2)
    assert corpus(system_prompt="x").samples.num_rows == 8  # fills the cache with workers
    assert corpus(system_prompt="x").samples["idx"][:] == list(range(8))
    made = corpus([*ROWS, {"prompt": "a", "completion": "b"}]).samples.to_list()
    assert made[:8] == alone


def test_what_is_cached_is_not_read_again(
    corpus: Callable[..., Corpus], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [*ROWS, {"prompt": "a", "completion": ""}]
    first = corpus(rows).samples.to_list()
    monkeypatch.delattr(module, "RecordReader")
    monkeypatch.delattr(module, "encode_batch")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert corpus(rows).samples.to_list() == first
    assert "rows.jsonl:9: 'completion' is empty" in caplog.text  # said every time


def test_system_prompts(corpus: Callable[..., Corpus], tokenizer: PreTrainedTokenizerBase) -> None:
    own = {"role": "system", "content": "Mine."}
    user = {"role": "user", "content": "?"}
    rows = [ROWS[0], {"messages": [own, user, {"role": "assistant", "content": "!"}]}]
    texts = [
        str(tokenizer.decode(ids))
        for ids in corpus(rows, system_prompt="paper").samples["input_ids"]
    ]
    assert texts[0].startswith(
        f"<|im_start|>system\n{PAPER_SYSTEM_PROMPT}<|im_end|>\n<|im_start|>user"
    )
    assert texts[1].startswith("<|im_start|>system\nMine.<|im_end|>\n<|im_start|>user")
    plain, other = (
        corpus(rows, system_prompt=prompt).samples["input_ids"] for prompt in (None, "x")
    )
    assert str(tokenizer.decode(plain[0])).startswith("<|im_start|>user")
    assert str(tokenizer.decode(other[0])).startswith("<|im_start|>system\nx<|im_end|>")


@pytest.mark.parametrize(("too_long", "kept"), [("drop", 6), ("cut", 8)])
def test_samples_that_are_too_long(too_long: str, kept: int, corpus: Callable[..., Corpus]) -> None:
    whole = corpus().samples
    limit = sorted(column(whole, "length"))[-3]
    limited = corpus(max_length=int(limit), too_long=too_long).samples
    assert len(limited) == kept
    for row in limited:
        expected = whole[row["idx"]]["input_ids"][:limit]
        assert row["input_ids"] == expected
        assert row["length"] == len(expected)


def test_a_cut_that_leaves_no_answer_drops_the_sample(corpus: Callable[..., Corpus]) -> None:
    prompt = corpus().samples[0]["prompt_length"]
    assert not len(corpus(max_length=prompt, too_long="cut").samples)


def test_a_conversation_that_the_template_refuses(
    corpus: Callable[..., Corpus], tokenizer: PreTrainedTokenizerBase
) -> None:
    strict = corpus()
    strict.tokenizer.chat_template = (
        "{{ raise_exception('roles must alternate') if messages|length > 1 }}"
        "{{ messages[0].content }}<|im_end|>"
    )
    strict.end_token = tokenizer.eos_token_id
    twice = [{"role": "user", "content": "?"}] * 2 + [{"role": "assistant", "content": "!"}]
    Path("rows.jsonl").write_text(json.dumps({"messages": twice}))
    with pytest.raises(UserError, match=r"refuses a conversation .*roles must alternate"):
        _ = strict.samples


def test_faults_leave_no_cache_behind(corpus: Callable[..., Corpus]) -> None:
    with pytest.raises(UserError, match=r"rows.jsonl:1: 'completion' is missing"):
        _ = corpus([{"prompt": "a"}]).records
    assert not [file for file in Path("cache").iterdir() if file.suffix != ".lock"]
