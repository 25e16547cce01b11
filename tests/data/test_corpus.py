"""Encoded samples: the same from any cache, cut or dropped as asked, faults in one line."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import encode
from transformers import AutoConfig, AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase

from wdl.constants import PAPER_SYSTEM_PROMPT
from wdl.data import corpus as module
from wdl.data import encoding
from wdl.data.corpus import Corpus, column
from wdl.data.encoding import end_of_turn
from wdl.data.plan import Plan
from wdl.errors import UserError
from wdl.system.digests import value_digest

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
    monkeypatch.delattr(encoding, "encode_batch")
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


def test_what_is_held_out_does_not_depend_on_the_system_prompt(
    corpus: Callable[..., Corpus],
) -> None:
    own = {"role": "system", "content": "Mine."}
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    rows = [*ROWS, {"messages": [own, *turns]}, {"messages": turns}]
    hashes = [column(corpus(rows, system_prompt=p).samples, "prompt_hash") for p in (None, "x")]
    assert hashes[0].tolist() == hashes[1].tolist()
    assert len(set(hashes[0])) == len(rows)


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


@pytest.fixture
def model(architecture: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model's folder, to be changed."""
    return shutil.copytree(architecture, tmp_path / "model")


def turns(*texts: str) -> dict:
    """A conversation that the assistant ends."""
    roles = ["user"] * (len(texts) - 1) + ["assistant"]
    return {"messages": [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]}


def test_a_conversation_that_the_template_refuses(
    write_rows: Callable[..., Path], model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    template = model / "chat_template.jinja"
    alternating = "{{ raise_exception('roles must alternate') if messages|length > 2 }}"
    template.write_text(alternating + template.read_text())
    path = str(write_rows([turns("?", "!"), turns("?", "?", "?", "!"), turns("?", "?", "?", "?")]))
    with pytest.raises(UserError, match=r"rows.jsonl:2: .*roles must alternate") as error:
        _ = Corpus(path, str(model), Path("cache")).samples
    assert len(error.value.lines()) == 2
    with caplog.at_level(logging.WARNING):
        assert Corpus(path, str(model), Path("cache"), on_bad_row="skip").samples["idx"][:] == [0]
    assert "rows.jsonl:3: " in caplog.text


def test_a_system_prompt_that_the_template_refuses_is_one_line(
    write_rows: Callable[..., Path], model: Path
) -> None:
    template = model / "chat_template.jinja"
    refusing = "{{ raise_exception('no system role') if messages[0].role == 'system' }}"
    template.write_text(refusing + template.read_text())
    with pytest.raises(UserError, match="no system role") as error:
        _ = Corpus(str(write_rows(ROWS)), str(model), Path("cache"), "paper").samples
    assert len(error.value.lines()) == 1


def test_a_token_that_the_model_has_no_row_for(
    write_rows: Callable[..., Path], model: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    size = AutoConfig.from_pretrained(model).vocab_size
    tokenizer.add_tokens([f"<{n}>" for n in range(len(tokenizer), size + 1)])
    tokenizer.pad_token = f"<{size}>"
    tokenizer.save_pretrained(model)
    path = str(write_rows([turns("?", "!"), turns("?", f"<{size - 1}>")]))
    corpus = Corpus(path, str(model), Path("cache"))
    assert max(map(max, corpus.samples["input_ids"])) == size - 1
    batch = corpus.collate(corpus.samples.to_list(), [0, 1], 1)
    assert batch["input_ids"].max() < size  # as the pad token of the tokenizer is not
    with pytest.raises(UserError, match=f"rows.jsonl:1: the model has no row for '<{size}>'"):
        path = str(write_rows([turns("?", f"<{size}>")]))
        _ = Corpus(path, str(model), Path("cache")).samples


def test_a_slow_tokenizer(
    write_rows: Callable[..., Path], model: Path, tmp_path: Path, architecture: Path
) -> None:
    template = (architecture / "chat_template.jinja").read_text().replace("<|im_end|>", "</s>")
    (model / "tokenizer.json").unlink()
    ByT5Tokenizer(chat_template=template).save_pretrained(model)
    config = AutoConfig.from_pretrained(model)
    config.vocab_size = 512
    config.save_pretrained(model)
    path = str(write_rows(ROWS))
    first = Corpus(path, str(model), Path("cache"))
    assert first.tokenizer.decode(first.samples["input_ids"][0][-2:]) == "2</s>"
    moved = Corpus(path, str(shutil.copytree(model, tmp_path / "moved")), Path("cache"))
    assert moved.key() == first.key()
    grown = moved.tokenizer
    grown.add_tokens(["<new>"])
    assert moved.key() != first.key()


@pytest.mark.parametrize(
    "files", [("tokenizer.json",), ("tokenizer.json", "tokenizer_config.json")]
)
def test_a_folder_without_a_tokenizer(
    files: tuple[str, ...], write_rows: Callable[..., Path], model: Path
) -> None:
    for file in files:
        (model / file).unlink()
    with pytest.raises(UserError, match=r"holds no tokenizer|its tokenizer cannot be read"):
        _ = Corpus(str(write_rows(ROWS)), str(model), Path("cache")).end_token


def test_faults_say_where_a_file_is_now(corpus: Callable[..., Corpus]) -> None:
    rows = [*ROWS, {"prompt": "a", "completion": ""}]
    assert corpus(rows).records.num_rows == 8
    Path("elsewhere").mkdir()
    Path("rows.jsonl").rename("elsewhere/rows.jsonl")
    moved = Corpus("elsewhere/rows.jsonl", "unused", Path("cache"))
    assert moved.records["place"][0] == "elsewhere/rows.jsonl:1"


def test_faults_leave_no_cache_behind(corpus: Callable[..., Corpus]) -> None:
    with pytest.raises(UserError, match=r"rows.jsonl:1: 'completion' is missing"):
        _ = corpus([{"prompt": "a"}]).records
    assert not [file for file in Path("cache").iterdir() if file.suffix != ".lock"]


@pytest.mark.parametrize(
    ("too_long", "samples", "key", "padded", "packed"),
    [
        ("drop", "e9336408", "b6310df4", "62f9f854", "a0093862"),
        ("cut", "7ba77ee2", "f2254282", "72352fa4", "a9e0cbc5"),
    ],
)
def test_later_versions_go_on_with_caches_and_runs(
    too_long: Any, samples: str, key: str, padded: str, packed: str, sums: Path, architecture: Path
) -> None:
    corpus = Corpus(sums.name, str(architecture), Path("cache"), None, 45, too_long)
    made = corpus.samples
    assert value_digest(made.to_list()).startswith(samples)
    # the tokenizer's digest is of its files, which other versions of its library write otherwise
    assert value_digest({**corpus.key(), "tokenizer": ""}).startswith(key)
    names = {file.name for file in Path("cache").iterdir()}
    assert "records-fa01101af3342307efe3a4f85c37cc95" in names
    encoding = value_digest(corpus.encoding_key())[:32]
    cut = {f"encoded-{encoding}-45.arrow"} if too_long == "cut" else set()
    assert {f"encoded-{encoding}.arrow"} | cut <= names
    lengths = np.array(made["length"][:])
    completions = lengths - np.array(made["prompt_length"][:])
    every = np.arange(len(made))
    assert Plan(every, lengths, completions, 8, 2, 3).digest.startswith(padded)
    assert Plan(every, lengths, completions, 8, 1, 3, 90).digest.startswith(packed)
