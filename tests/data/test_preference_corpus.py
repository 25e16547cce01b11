"""Questions and their pairs: joined over rows, capped, never cut, the same from any cache."""

import logging
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from wdl.data import corpus as corpus_module
from wdl.data import encoding
from wdl.data.corpus import Corpus, column
from wdl.data.preference_corpus import PreferenceCorpus
from wdl.errors import UserError

ANSWERS = [str(n) for n in range(8)]
RIGHT = {"0", "2", "5"}
PAIRS = [{"prompt": "?", "chosen": c, "rejected": r} for c in RIGHT for r in {*ANSWERS} - RIGHT]
Asked = dict[str, set[tuple[str, str]]]


@pytest.fixture
def corpus(write_rows: Callable[..., Path], architecture: Path) -> Callable[..., PreferenceCorpus]:
    def make(rows: list[dict], **settings: Any) -> PreferenceCorpus:
        return PreferenceCorpus(str(write_rows(rows)), str(architecture), Path("cache"), **settings)

    return make


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """A function that returns the lines that were said of pairs and questions."""
    caplog.set_level(logging.INFO)
    return lambda: [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]


def texts(corpus: PreferenceCorpus) -> Asked:
    """The pairs of each question, as texts; checks what holds of every corpus."""
    sequences, found, used = corpus.sequences, {}, []
    assert sequences["idx"][:] == list(range(len(sequences)))
    for question in corpus.samples:
        rows = sequences.select(question["sequences"]).to_list()
        used += question["sequences"]
        assert question["length"] == sum(len(row["input_ids"]) for row in rows)
        assert all(row["length"] == len(row["input_ids"]) for row in rows)
        assert len({tuple(row["input_ids"]) for row in rows}) == len(rows)
        pairs = list(zip(question["chosen"], question["rejected"], strict=True))
        assert pairs == sorted({*pairs})
        assert {position for pair in pairs for position in pair} == {*range(len(rows))}
        (prompt,) = {_text(corpus, row["input_ids"][: row["prompt_length"]]) for row in rows}
        answers = [_text(corpus, row["input_ids"][row["prompt_length"] : -1]) for row in rows]
        found[prompt.split("\n")[1].removesuffix("<|im_end|>")] = {
            (answers[chosen], answers[rejected]) for chosen, rejected in pairs
        }
    assert used == list(range(len(sequences)))
    return found


def _text(corpus: PreferenceCorpus, tokens: list[int]) -> str:
    return str(corpus.tokenizer.decode(tokens))


def test_pairs_of_one_question_share_their_sequences(
    corpus: Callable[..., PreferenceCorpus],
) -> None:
    alone, listed = (
        corpus(PAIRS),
        corpus([{"prompt": "?", "chosen": [*RIGHT], "rejected": [*{*ANSWERS} - RIGHT]}]),
    )
    for made in (alone, listed):
        assert texts(made) == {"?": {(row["chosen"], row["rejected"]) for row in PAIRS}}
        assert len(made.sequences) == 8


def test_rows_are_joined_by_what_they_ask(corpus: Callable[..., PreferenceCorpus]) -> None:
    rows = [
        {"idx": 30, "prompt": "a", "chosen": "1", "rejected": "2"},
        {"idx": 10, "prompt": "b", "chosen": ["1", "2"], "rejected": "3"},
        {"idx": 20, "prompt": "a", "chosen": ["1", "3"], "rejected": ["2", "4"]},
        {"idx": 40, "prompt": "a", "chosen": "2", "rejected": "1"},  # which another row denies
        {"idx": 50, "system": "Briefly.", "prompt": "a", "chosen": "1", "rejected": "2"},
    ]
    made = corpus(rows)
    assert made.samples["idx"][:] == [30, 10, 50]
    assert list(texts(made).values()) == [
        {("1", "4"), ("3", "2"), ("3", "4")},
        {("1", "3"), ("2", "3")},
        {("1", "2")},
    ]


def test_rows_that_deny_each_other_are_said_and_left_out(
    corpus: Callable[..., PreferenceCorpus], said: Callable[[], list[str]]
) -> None:
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in PAIRS]
    assert len(texts(corpus([*PAIRS, turned[0]]))["?"]) == len(PAIRS) - 1
    (line,) = said()
    assert line.startswith(f"2 of {len(PAIRS) + 1} pairs are left out: the data prefer")
    with pytest.raises(UserError, match="no pair of answers is left"):
        _ = corpus([*PAIRS, *turned]).samples


@pytest.mark.parametrize("system_prompt", [None, "paper"])
def test_sequences_are_what_instruction_training_encodes(
    system_prompt: str | None,
    corpus: Callable[..., PreferenceCorpus],
    write_rows: Callable[..., Path],
    architecture: Path,
) -> None:
    made = corpus(PAIRS[:1], system_prompt=system_prompt)
    rows = [{"prompt": "?", "completion": PAIRS[0][side]} for side in ("chosen", "rejected")]
    file = str(write_rows(rows, "answers.jsonl"))
    samples = Corpus(file, str(architecture), Path("cache"), system_prompt).samples
    for name in ("input_ids", "prompt_length", "length"):
        assert made.sequences[name][:] == samples[name][:]
    assert [made.samples["prompt_hash"][0]] * 2 == samples["prompt_hash"][:]


def shuffled(seed: int) -> list[dict]:
    """The pairs of thirty questions, in any order."""
    rows = [{**row, "prompt": f"{n}?"} for n in range(30) for row in PAIRS]
    random.Random(seed).shuffle(rows)
    return rows


@pytest.mark.parametrize("max_pairs", [1, 4, 15, 99])
def test_the_pairs_that_are_kept_do_not_depend_on_the_file(
    max_pairs: int, corpus: Callable[..., PreferenceCorpus], said: Callable[[], list[str]]
) -> None:
    kept = [texts(corpus(shuffled(seed), max_pairs=max_pairs)) for seed in (0, 1)]
    assert kept[0] == kept[1]
    assert {len(pairs) for pairs in kept[0].values()} == {min(max_pairs, 15)}
    if max_pairs < 15:
        assert len({frozenset(pairs) for pairs in kept[0].values()}) > 5  # by the question
        assert said()[0] == (
            f"{30 * (15 - max_pairs)} of 450 pairs are left out: a question has at most "
            f"{max_pairs} (data.max_pairs)"
        )
        more = texts(corpus(shuffled(0), max_pairs=max_pairs + 1))
        assert all(pairs < more[question] for question, pairs in kept[0].items())


def test_answers_that_are_too_long(
    corpus: Callable[..., PreferenceCorpus], said: Callable[[], list[str]]
) -> None:
    rows = [
        {"prompt": "a", "chosen": ["1", "1" * 50], "rejected": "2"},
        {"prompt": "b", "chosen": "1", "rejected": "2" * 50},
        {"prompt": "c", "chosen": "1" * 50, "rejected": ["2", "3"]},
    ]
    whole = sorted(column(corpus(rows).sequences, "length"))
    made = corpus(rows, max_length=int(whole[-4]))
    assert texts(made) == {"a": {("1", "2")}}
    assert len(made.sequences) == 2
    assert made.samples["idx"][:] == [0]
    assert said() == [
        f"4 of 5 pairs are left out: 3 answers are longer than {whole[-4]} tokens "
        "(data.max_length), and none is cut",
        "2 of 3 questions have no pair and are left out",
    ]
    with pytest.raises(UserError, match=r"rows.jsonl: no pair of answers is left .*max_length"):
        _ = corpus(rows, max_length=3).samples
    with pytest.raises(UserError, match=r"see data.max_length and data.max_tokens"):
        _ = corpus(rows, max_length=3, max_tokens=9).samples


def test_questions_that_fill_a_pack(
    corpus: Callable[..., PreferenceCorpus], said: Callable[[], list[str]]
) -> None:
    rows = [*shuffled(0), {"prompt": "large", "chosen": "1" * 60, "rejected": "2" * 60}]
    length = int(column(corpus(PAIRS).sequences, "length")[0]) + 1  # two digits in the question
    made = corpus(rows, max_tokens=4 * length)
    found = texts(made)
    assert len(found) == 30 and "large" not in found
    assert max(column(made.samples, "length")) <= 4 * length
    assert {len({a for pair in pairs for a in pair}) for pairs in found.values()} <= {3, 4}
    counted = sum(map(len, found.values()))
    assert said() == [
        f"{451 - counted} of 451 pairs are left out: their question has no room for them "
        f"(data.max_tokens, {4 * length})",
        "1 of 31 questions have no pair and are left out",
    ]
    capped = texts(corpus(rows, max_tokens=4 * length, max_pairs=2))
    assert all(capped[question] <= pairs for question, pairs in found.items())
    with pytest.raises(UserError, match=r"see data.max_length and data.max_tokens"):
        _ = corpus(PAIRS, max_tokens=5).samples


def test_answers_that_a_tokenizer_makes_the_same(
    corpus: Callable[..., PreferenceCorpus],
    said: Callable[[], list[str]],
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    rows = [{"prompt": "a", "chosen": "é", "rejected": ["e\u0301", "2"]}]
    make = encoding.encode_batch

    def composed(tokenizer: Any, texts: list, end_token: int) -> list:
        return make(tokenizer, [(p, a.replace("e\u0301", "é")) for p, a in texts], end_token)

    monkeypatch.setattr(encoding, "encode_batch", composed)
    assert texts(corpus(rows)) == {"a": {("é", "2")}}
    assert said() == ["1 of 2 pairs are left out: both sides are the same tokens"]


def test_a_row_that_the_model_cannot_take_is_one_line(
    write_rows: Callable[..., Path],
    architecture: Path,
    tmp_path: Path,
    said: Callable[[], list[str]],
) -> None:
    model = shutil.copytree(architecture, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    size = AutoConfig.from_pretrained(model).vocab_size
    tokenizer.add_tokens([f"<{n}>" for n in range(len(tokenizer), size + 1)])
    tokenizer.save_pretrained(model)
    bad = f"<{size}>"
    rows = [{"prompt": f"{n}", "chosen": bad, "rejected": [f"b{bad}", "c"]} for n in range(30)]

    def made(**settings: Any) -> PreferenceCorpus:
        return PreferenceCorpus(str(write_rows(rows)), str(model), Path("cache"), **settings)

    with pytest.raises(UserError, match=r"rows.jsonl:1: the model has no row for") as error:
        _ = made().samples
    assert len(error.value.lines()) == 21
    assert error.value.lines()[-1] == "... and 10 more like these"
    with pytest.raises(UserError, match="no pair of answers is left"):
        _ = made(on_bad_row="skip").samples
    assert said() == [
        "30 rows are left out:",
        "60 answers are left out: the model cannot take them",
    ]
    rows[7] = {"prompt": "7", "chosen": "a", "rejected": [bad, "c"]}
    assert texts(made(on_bad_row="skip")) == {"7": {("a", "c")}}
    assert said()[-1] == "29 of 30 questions have no pair and are left out"


def test_what_is_cached_is_not_read_again(
    corpus: Callable[..., PreferenceCorpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = corpus(shuffled(0))
    before = first.samples.to_list(), first.sequences.to_list()
    monkeypatch.setattr(PreferenceCorpus, "read", None)
    monkeypatch.delattr(encoding, "encode_batch")
    again = corpus(shuffled(0))
    assert (again.samples.to_list(), again.sequences.to_list()) == before
    capped = corpus(shuffled(0), max_pairs=2)
    assert sum(map(len, texts(capped).values())) == 60
    assert capped.key() != again.key()


def test_worker_processes_change_nothing(
    corpus: Callable[..., PreferenceCorpus], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = corpus(shuffled(0))
    before = alone.samples.to_list(), alone.sequences.to_list()
    monkeypatch.setattr(corpus_module, "ROWS_PER_WORKER", 4)
    monkeypatch.setattr(corpus_module.os, "cpu_count", lambda: 2)
    Path("rows.jsonl").rename("moved.jsonl")
    made = PreferenceCorpus("moved.jsonl", alone._tokenizer_source, Path("other"))
    assert (made.samples.to_list(), made.sequences.to_list()) == before


def test_a_file_of_both_kinds_of_rows(
    corpus: Callable[..., PreferenceCorpus], architecture: Path
) -> None:
    made = corpus([{"prompt": "a", "completion": "b"}, PAIRS[0]], on_bad_row="skip")
    plain = Corpus(made.path, str(architecture), made.cache, on_bad_row="skip")
    assert len(made.sequences) == 2 and made.samples["idx"][:] == [1]
    assert plain.samples["idx"][:] == [0]
