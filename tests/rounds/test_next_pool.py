"""``wdl next-pool``: which questions are asked again, and what is made of the failed ones."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from attempts import attempt, graded, read, refused, write
from conftest import CONFIGS

from wdl.cli import main
from wdl.rounds.pool import kind_of, question_id, read_pool
from wdl.rounds.similar import Texts
from wdl.system.outcome import VARIABLE, read_outcome

SUM = re.compile(r"Compute (\d\d)\*(\d)([+-]\d\d)\.")
SUMS = [row["instruction"] for row in read(CONFIGS / "tiny" / "train.jsonl")[:60]]


def next_pool(*more: str, out: str = "next.jsonl") -> list[dict]:
    words = ["next-pool", "--pool", "pool.jsonl", "--graded", "g.jsonl", "--out", out]
    main([*words, *more])
    return read(out)


def a_round(letters: dict[str, str], **fields: object) -> None:
    """A pool of questions and the attempts at them."""
    rows = [{"question": text, "answer": "1", "origin": "seed", **fields} for text in letters]
    write("pool.jsonl", rows)
    write("g.jsonl", [row for text, found in letters.items() for row in graded(text, found)])


def test_failed_ones_are_asked_again_and_some_of_the_solved() -> None:
    solved = {f"solved {number}": "rr" for number in range(20)}
    a_round({"failed": "rw", "hopeless": "ww", "unclear": "uu", "half": "ru", **solved})
    rows = {row["question"]: row for row in next_pool()}
    assert {"failed", "hopeless", "unclear"} <= rows.keys()
    assert len(rows) == 3 + 4  # of 21 solved ones
    counts = ("origin", "attempts", "solved", "streak", "generation")
    assert [rows["failed"][name] for name in counts] == ["replay", 2, 1, 0, 0]
    assert [rows["hopeless"][name] for name in counts] == ["replay", 2, 0, -1, 0]
    assert [rows["unclear"][name] for name in counts] == ["seed", 0, 0, 0, 0]
    assert rows["failed"]["id"] == question_id("failed")
    summary = json.loads(Path("next.jsonl.summary.json").read_text())
    assert summary["left_out"] == {"not replayed": 17}
    everything = next_pool("--replay_solved", "1", "--seed", "3", out="all.jsonl")
    assert len(everything) == 24
    assert [row["question"] for row in everything][:4] == ["failed", "hopeless", "unclear", "half"]


def test_a_lot_is_by_the_seed() -> None:
    a_round({f"solved {number}": "rr" for number in range(50)})
    drawn = [next_pool("--seed", seed, out=f"{seed}.jsonl") for seed in ("1", "2")]
    again = next_pool("--seed", "1", out="again.jsonl")
    assert drawn[0] == again and drawn[0] != drawn[1]
    assert len(again) == len(drawn[1]) == 10


def test_what_was_all_right_or_all_wrong_for_rounds_rests() -> None:
    a_round({"wrong": "ww", "right": "rr", "mixed": "rw", "unclear": "uu"}, streak=-2)
    options = ("--replay_solved", "1")
    rows = {row["question"]: row["streak"] for row in next_pool(*options)}
    assert rows == {"right": 1, "mixed": 0, "unclear": -2}
    rows = {
        r["question"]: r["streak"] for r in next_pool(*options, "--rest_after", "4", out="2.jsonl")
    }
    assert rows["wrong"] == -3
    rows = {r["question"]: r for r in next_pool(*options, "--rest_after", "null", out="3.jsonl")}
    assert len(rows) == 4


def test_arithmetic_makes_a_sum_of_the_same_kind_with_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "outcome.json")
    a_round({**dict.fromkeys(SUMS[:30], "rw"), **dict.fromkeys(SUMS[30:], "rr"), "other": "ww"})
    rows = next_pool("--enhance", "arithmetic")
    assert Counter(row["origin"] for row in rows) == {"replay": 31 + 6, "enhanced": 30}
    parents = {question_id(text): text for text in SUMS[:30]}
    for row in rows[37:]:
        parent, own = SUM.fullmatch(parents.pop(row["parent"])), SUM.fullmatch(row["question"])
        assert parent and own
        assert (own[2], own[3][0]) == (parent[2], parent[3][0])
        assert int(row["answer"]) == int(own[1]) * int(own[2]) + int(own[3])
        assert row["generation"] == 1 and row["id"] == question_id(row["question"])
    assert not parents
    amounts, parts = read_outcome(Path("outcome.json"))
    assert amounts == {"questions": 67}
    assert parts == {"replay": 37, "enhanced": 30, "not replayed": 24}
    shares = json.loads(Path("next.jsonl.summary.json").read_text())["results"]
    assert shares["pass@1"] == pytest.approx((15 + 30 + 0) / 61)
    assert shares["pass@2"] == pytest.approx(60 / 61)
    before = Path("next.jsonl").read_bytes()
    assert next_pool("--enhance", "arithmetic", out="again.jsonl") == rows
    write("pool.jsonl", rows)  # the next round may take its own pool
    judged = [(one["answer"], row) for one in rows for row in graded(one["question"], "rw")]
    write("g.jsonl", [{**row, "answer": answer} for answer, row in judged])
    third = next_pool("--enhance", "arithmetic", out="third.jsonl")
    assert max(row["generation"] for row in third) == 2
    assert len({row["id"] for row in third}) == len(third)
    assert Path("next.jsonl").read_bytes() == before


STORY = (
    "Natalia sold clips to {} of her friends in April, and then she sold half as many clips in "
    "May. How many clips did Natalia sell altogether in April and May?"
)


def test_written_ones_are_taken_unless_they_are_there() -> None:
    a_round({STORY.format(48): "rw", "short": "rw"}, generation=2)
    test = "A robe takes 2 bolts of blue fiber and half that much white fiber. How many in total?"
    write("test.jsonl", [{"question": test, "answer": "3"}])
    parent = question_id(STORY.format(48))
    questions = {
        STORY.format(50): "a child with other numbers",
        STORY.format(48).replace("altogether ", ""): "nearly the parent",
        "  short ": "to the letter",
        f"Please: {test}": "in a test",
        STORY.format(50).replace("half", "one half"): "nearly the first child",
        "new": "new",
    }
    write("more.jsonl", [{"question": q, "answer": "5", "parent": parent} for q in questions])
    rows = next_pool("--enhance", "more.jsonl", "--contamination", "test.jsonl")
    assert [(row["question"], row["origin"], row["generation"]) for row in rows] == [
        (STORY.format(48), "replay", 2),
        ("short", "replay", 2),
        (STORY.format(50), "enhanced", 3),
        ("new", "enhanced", 3),
    ]
    summary = json.loads(Path("next.jsonl.summary.json").read_text())
    assert summary["left_out"] == {"duplicate": 3, "contaminated": 1}


def test_a_test_needs_no_answers() -> None:
    write("test.jsonl", [{"question": "58*7-97"}])
    a_round({"58 × 7 - 97": "rw", "other": "rw"})
    rows = next_pool("--contamination", "test.jsonl")
    assert [row["question"] for row in rows] == ["other"]


def test_no_question_of_a_test_is_asked() -> None:
    heldout = CONFIGS / "tiny" / "heldout.jsonl"
    known = read(heldout)[0]["instruction"]
    a_round({known: "rw", **dict.fromkeys(SUMS, "rw")})
    rows = next_pool("--enhance", "arithmetic", "--contamination", str(heldout))
    tested = {row["instruction"] for row in read(heldout)}
    assert len(rows) == 120 and not tested & {row["question"] for row in rows}


def test_under_a_cap_the_solved_go_first_then_the_enhanced() -> None:
    a_round({**dict.fromkeys(SUMS[:10], "rw"), **dict.fromkeys(SUMS[10:], "rr")})
    for cap, expected in ((25, (10 + 5, 10)), (15, (10, 5)), (4, (4, 0))):
        options = ("--enhance", "arithmetic", "--replay_solved", "1", "--cap", str(cap))
        rows = next_pool(*options, out=f"{cap}.jsonl")
        origins = Counter(row["origin"] for row in rows)
        assert (origins["replay"], origins["enhanced"]) == expected


def test_a_question_is_the_same_however_it_is_written() -> None:
    write("a.jsonl", [{"instruction": "Café  3+4?", "output": r"\boxed{7}"}])
    write("b.jsonl", [{"question": " Cafe\u0301 3+4? ", "answer": "... #### 7", "id": 12}])
    first, second = (read_pool(Path(name))[0] for name in ("a.jsonl", "b.jsonl"))
    assert (first.id, first.answer) == (second.id, second.answer)
    assert question_id("2²") != question_id("22")


def test_kinds() -> None:
    assert kind_of("?", "1,234") == "number"
    assert kind_of("?", "x^2") == "expression"
    assert kind_of("?\n\nA) 1\nB) 2", "B") == "letter"
    assert kind_of("?", "B") == "expression"


def test_similar_texts() -> None:
    long = "one two three four five six seven eight nine ten eleven twelve"
    texts = Texts([long, "short one"])
    assert long.upper() in texts and "Short  one" in texts
    assert long.replace("twelve", "12") in texts  # four of five runs
    assert long.replace("six", "6") not in texts
    assert "one short" not in texts


@pytest.mark.parametrize(
    "spelt",
    [
        *("58*7-97.", "58 * 7 - 97 = ?", "$58*7-97$", r"\(58 \times 7-97\)", "58 × 7 − 97"),
        *(r"58\cdot7-97:", "58·7–97", "58 x 7-97"),
    ],
)
def test_a_short_text_is_the_same_whatever_its_marks(spelt: str) -> None:
    assert spelt in Texts(["58*7-97"]) and "58*7-97" in Texts([spelt])
    assert spelt not in Texts(["58*7-98", "58+7-97", "58/7-97", "5.8*7-97", "58*7+97"])


def test_what_says_something_else_is_another_text() -> None:
    assert "3.5+1" not in Texts(["35+1", "3 5+1", "3,5+1"]) and "x*.5" not in Texts(["x*5"])
    assert "x>3" not in Texts(["x<3", "x=3"]) and "5!" not in Texts(["5"])


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (["--replay_failed", "1.5"], "--replay_failed 1.5: it lies in [0, 1]"),
        (["--replay_solved", "-1"], "--replay_solved -1.0: it lies in [0, 1]"),
        (["--cap", "0"], "--cap 0: it is at least 1"),
        (["--rest_after", "0"], "--rest_after 0: it is at least 1"),
        (["--enhance", "none.jsonl"], "none.jsonl: there is no such file"),
        (["--enhance", "arithmetic"], "no failed question is one; give a file of enhanced"),
        (["--graded", "g.jsonl,none.jsonl"], "check the path (one file is asked for)"),
        (["--contamination", "g.jsonl,none.jsonl"], "g.jsonl:1: the row has no question"),
        (["--pool", "none.jsonl"], "none.jsonl: there is no such file"),
        (["--pool", "other.jsonl"], "it holds 2 attempts at questions that are not in other.jsonl"),
        (["--pool", "corrected.jsonl"], "are graded by '1', but its answer in corrected.jsonl is"),
        (["--graded", "samples.jsonl"], "samples.jsonl:1: it has no verdict"),
        (["--replay_failed", "0"], "no question is left to ask (1 "),
        (["--out", "pool.jsonl"], "pool.jsonl: it was made with another"),
    ],
)
def test_what_cannot_be_is_said(
    options: list[str], fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    a_round({"a": "rw"})
    write("other.jsonl", [{"question": "b", "answer": "1"}])
    write("corrected.jsonl", [{"question": "a", "answer": "2"}])
    write("samples.jsonl", [attempt("a", 0)])
    words = ["next-pool", "--pool", "pool.jsonl", "--graded", "g.jsonl", "--out", "out.jsonl"]
    before = Path("pool.jsonl").read_bytes()
    assert fault in refused([*words, *options], capsys)
    assert not Path("out.jsonl").exists() and Path("pool.jsonl").read_bytes() == before
