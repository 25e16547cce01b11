"""``wdl pairs``, ``keep`` and ``prompts``: what becomes of graded attempts."""

import json
from pathlib import Path

import pytest
from attempts import attempt, graded, read, refused, write
from pyarrow import parquet

from wdl.cli import main
from wdl.data.records import RecordReader
from wdl.rounds.attempts import VERDICTS
from wdl.rounds.pool import question_id
from wdl.system.outcome import VARIABLE, read_outcome


def pairs(files: str, out: str = "pairs", *more: str) -> dict:
    main(["pairs", "--graded", files, "--out", out, *more])
    return json.loads(Path(out, "description.json").read_text())


def rows(file: str) -> list[dict]:
    return parquet.read_table(file).to_pylist()


def test_both_sides_of_a_question_in_all_rounds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(VARIABLE, "outcome.json")
    more = [
        attempt("a", 0, "wrong", completion="wrong 1"),  # as in the first round
        attempt("a", 1, "right", completion="new"),
        attempt("a", 8, "right", completion="other"),
        attempt("a", 2, "right", completion="wrong 2"),  # another judge held it to be wrong
        attempt("a", 3, "wrong", completion="cut", finish_reason="length"),
        attempt("a", 4, "wrong", completion=" "),
        attempt("a", 7, "wrong", completion=" new\n"),  # so neither is
        attempt("a", 5, "wrong", completion="hm", thinking=True),  # a thought without an end
        attempt("a", 6, "wrong", completion="so</think> 2", thinking=True),
    ]
    write("1.jsonl", [*graded("a", "rwwu"), *graded("b", "rr"), *graded("c", "ww")])
    write("2.jsonl", more)
    found = pairs("1.jsonl,2.jsonl", "pairs", "--val_fraction", "0")
    assert rows("pairs/train.parquet") == [
        {
            "prompt": [{"role": "user", "content": "a"}],
            "chosen": ["right 0", "other"],
            "rejected": ["wrong 1", "so</think> 2"],
        }
    ]
    assert rows("pairs/validation.parquet") == []
    train = {"questions": 1, "pairs": 4, "chosen": 2, "rejected": 2}
    assert found["train"] == {**train, "chosen_tokens": 5, "rejected_tokens": 5}
    used = {"questions": 3, "attempts": 17, "right": 6, "wrong": 10, "ungraded": 1, "in_pairs": 4}
    assert used.items() <= found["attempts"].items()
    assert found["attempts"]["contradictory"] == 2
    printed = "pairs: 4 of 17 attempts are in pairs; 2 texts, right by one verdict and wrong by"
    assert printed in capsys.readouterr().out
    assert found["attempts"]["all_right"] == found["attempts"]["all_wrong"] == 1 / 3
    assert read_outcome(Path("outcome.json"))[0]["train pairs"] == 4


def test_the_split_is_by_question_and_stays() -> None:
    names = [f"question {number}" for number in range(200)]
    write("1.jsonl", [row for name in names for row in graded(name, "rw")])
    write("2.jsonl", [{**row, "completion": row["verdict"]} for row in read("1.jsonl")])
    sides = []
    for files, out in (("1.jsonl", "one"), ("1.jsonl,2.jsonl", "two")):
        pairs(files, out)
        parts = [
            {row["prompt"][0]["content"] for row in rows(f"{out}/{name}.parquet")}
            for name in ("train", "validation")
        ]
        assert parts[0] | parts[1] == set(names) and not parts[0] & parts[1]
        sides.append(parts)
    assert sides[0] == sides[1]
    assert 8 <= len(sides[0][1]) <= 32


def test_the_same_input_gives_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    write("g.jsonl", [row for n in range(40) for row in graded(f"q{n}", "rwrwu")])
    pairs("g.jsonl", "one")
    pairs("g.jsonl", "two")
    names = ("train.parquet", "validation.parquet", "description.json")
    whole = {name: Path("one", name).read_bytes() for name in names}
    assert {name: Path("two", name).read_bytes() for name in names} == whole
    # as a kill leaves it, or a hand
    for half in (("validation.parquet", "train.parquet"), ("train.parquet",), names[1:2]):
        for name in half:
            Path("one", name).unlink()
        pairs("g.jsonl", "one")
        assert {name: Path("one", name).read_bytes() for name in names} == whole
    capsys.readouterr()
    pairs("g.jsonl", "one")
    assert "one/train.parquet: there already, made from the same inputs" in capsys.readouterr().out
    error = refused(["pairs", "--graded", "g.jsonl", "--out", "one", "--seed", "1"], capsys)
    assert "one/train.parquet: it was made with another seed" in error


def test_what_was_changed_by_hand_is_not_whole(capsys: pytest.CaptureFixture[str]) -> None:
    write("g.jsonl", [row for name in "abcd" for row in graded(name, "rw")])
    keep = ["keep", "--graded", "g.jsonl", "--out", "rows.jsonl"]
    main(keep)
    whole = Path("rows.jsonl").read_text()
    Path("rows.jsonl").write_text("".join(whole.splitlines(keepends=True)[1:]))
    error = refused(keep, capsys)
    assert "rows.jsonl: it was changed since it was made; remove it, and the same command" in error
    Path("rows.jsonl").unlink()
    main(keep)
    assert Path("rows.jsonl").read_text() == whole
    pairs("g.jsonl")
    Path("pairs/validation.parquet").write_bytes(Path("pairs/train.parquet").read_bytes())
    error = refused(["pairs", "--graded", "g.jsonl", "--out", "pairs"], capsys)
    assert "pairs/validation.parquet: it was changed since it was made" in error


@pytest.mark.parametrize("most", [1, 2, 5, 6, 100])
def test_a_cap_on_the_pairs_of_a_question(most: int) -> None:
    write("g.jsonl", graded("a", "rrwwwwww"))
    found = pairs("g.jsonl", "pairs", "--val_fraction", "0", "--max_pairs", str(most))
    [row] = rows("pairs/train.parquet")
    assert len(row["chosen"]) * len(row["rejected"]) == found["train"]["pairs"]
    assert found["train"]["pairs"] == {1: 1, 2: 2, 5: 4, 6: 6, 100: 12}[most]


def test_kept_rows_are_rows_to_fit() -> None:
    rows = [*graded("a", "rrwr"), attempt("a", 9, "right", completion="right 0")]
    rows += [*graded("b", "w"), attempt("c", 0, "right", finish_reason="length")]
    write("g.jsonl", rows)
    main(["keep", "--graded", "g.jsonl", "--out", "rows.jsonl"])
    reader = RecordReader([Path("rows.jsonl")])
    found = [(record["messages"][0]["content"], record["completion"]) for _, record in reader]
    assert found == [("a", "right 0"), ("a", "right 1"), ("a", "right 3")]
    main(["keep", "--graded", "g.jsonl", "--out", "two.jsonl", "--per_question", "2"])
    two = read("two.jsonl")
    assert [row["idx"] for row in two] == [0, 1]
    assert {row["messages"][1]["content"] for row in two} < {text for _, text in found}


def test_a_choice_is_by_the_seed() -> None:
    write("g.jsonl", [row for n in range(20) for row in graded(f"q{n}", "rrrr")])
    texts: list[str] = []
    for seed in ("1", "1", "2"):
        out = f"{len(texts)}.jsonl"
        options = ["--per_question", "1", "--seed", seed]
        main(["keep", "--graded", "g.jsonl", "--out", out, *options])
        texts.append(Path(out).read_text())
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0].splitlines())) == 20


def test_prompts_have_the_columns_of_verl() -> None:
    write("g.jsonl", [*graded("a", "rwu"), *graded("b", "w")])
    main(["prompts", "--graded", "g.jsonl", "--out", "p/prompts.parquet"])
    table = parquet.read_table("p/prompts.parquet")
    assert table.column_names == ["data_source", "prompt", "ability", "reward_model", "extra_info"]
    first, second = table.to_pylist()
    assert first == {
        "data_source": "lighteval/MATH",
        "prompt": [{"role": "user", "content": "a"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "1"},
        "extra_info": {"index": 0, "id": question_id("a"), "attempts": 2, "right": 1},
    }
    assert second["extra_info"]["right"] == 0


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["pairs", "--graded", "none.jsonl"], "none.jsonl: there is no such file"),
        (["pairs", "--graded", "g.jsonl,g.jsonl"], "g.jsonl is named twice"),
        (["pairs", "--graded", "g.jsonl,copy.jsonl"], "copy.jsonl holds the same as g.jsonl"),
        (["pairs", "--graded", ","], "--graded: name each file once, at least one"),
        (["pairs", "--graded", "samples.jsonl"], "samples.jsonl:1: it has no verdict; grade the"),
        (["pairs", "--graded", "maybe.jsonl"], "maybe.jsonl:1: it has no verdict"),
        (["pairs", "--graded", "half.jsonl"], "half.jsonl:1: 'completion' holds half a surrogate"),
        (["pairs", "--graded", "g.jsonl,corrected.jsonl"], "is '2', and was '1' before; grade all"),
        (["pairs", "--graded", "right.jsonl"], "no question has both a right and a wrong attempt"),
        (["pairs", "--graded", "g.jsonl,system.jsonl"], "give rounds of one system prompt"),
        (["pairs", "--graded", "g.jsonl", "--val_fraction", "1"], "--val_fraction 1.0: it lies"),
        (["pairs", "--graded", "g.jsonl", "--max_pairs", "0"], "--max_pairs 0: it is at least 1"),
        (["pairs", "--graded", "table.parquet"], "table.parquet: attempts come as .jsonl"),
        (["pairs", "--graded", "g.jsonl,text.jsonl"], "is 'a', and elsewhere 'b'; an id is that"),
        (
            ["pairs", "--graded", "g.jsonl", "--val_fraction", ".99"],
            "it leaves none of 1 questions",
        ),
        (["pairs", "--graded", "both.jsonl"], "on; 1 texts, right by one verdict and wrong by ano"),
        (["keep", "--graded", "both.jsonl"], "whole; 1 texts, right by one verdict and wrong by"),
        (["keep", "--graded", "wrong.jsonl"], "no attempt is right and whole; there is nothing to"),
        (["keep", "--graded", "g.jsonl", "--per_question", "0"], "--per_question 0: it is at"),
        (["prompts", "--graded", "empty.jsonl"], "empty.jsonl: the file is empty"),
        (["prompts", "--graded", "g.jsonl,system.jsonl"], "give rounds of one system prompt"),
    ],
)
def test_what_cannot_be_used_is_said(
    words: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write("g.jsonl", graded("a", "rw"))
    write("samples.jsonl", [attempt("a", 0)])
    write("maybe.jsonl", [attempt("a", 0, "maybe")])
    write("copy.jsonl", graded("a", "rw"))
    write("half.jsonl", [attempt("a", 0, "right", completion="\ud800")])
    write("corrected.jsonl", [attempt("a", 0, "right", answer="2")])
    write("right.jsonl", graded("a", "rr"))
    write("wrong.jsonl", graded("a", "ww"))
    write("empty.jsonl", [])
    write("table.parquet", [])
    system = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    other = [{"role": "user", "content": "b"}]
    write("text.jsonl", [attempt("a", 0, "right", messages=other)])
    both = [attempt("a", n, verdict, completion="c") for n, verdict in enumerate(VERDICTS)]
    write("both.jsonl", both)
    write("system.jsonl", [attempt("a", 0, "right", messages=system)])
    out = {"pairs": "out", "keep": "out.jsonl", "prompts": "out.parquet"}[words[0]]
    assert fault in refused([*words, "--out", out], capsys)
    assert not Path(out).exists()
