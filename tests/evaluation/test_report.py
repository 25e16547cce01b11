"""The summary of answers that can be counted by hand."""

from typing import Any

import pytest

from wdl.evaluation.report import print_results, summarise


def answer(problem: str, status: str, stated: str | None = None, **more: Any) -> dict[str, Any]:
    defaults = {"sample": 0, "finish_reason": "stop", "new_tokens": 10, "reference": "5"}
    return {
        "id": problem,
        "status": status,
        "answer": stated,
        **defaults,
        **more,
    }


def test_one_answer_per_problem() -> None:
    summary = summarise(
        [
            answer("a", "correct", "5"),
            answer("b", "wrong", "6", new_tokens=30),
            answer("c", "cut_off", finish_reason="length", new_tokens=256),
            answer("d", "could_not_grade", "?"),
        ]
    )
    assert summary["accuracy"] == 0.25
    assert summary["interval"] == pytest.approx((0.0456, 0.6994), abs=1e-4)  # Wilson, 1 of 4
    counts = {key: summary[key] for key in ("correct", "wrong", "cut_off", "could_not_grade")}
    assert counts == dict.fromkeys(counts, 1)
    assert summary["cut_off_rate"] == 0.25
    assert summary["new_tokens"] == (10 + 30 + 256 + 10) / 4
    assert "majority" not in summary


def test_both_orders_of_the_pictures() -> None:
    summary = summarise(
        [
            answer("a1", "correct", "first", item="a"),
            answer("a2", "correct", "second", item="a"),
            answer("b1", "correct", "first", item="b"),
            answer("b2", "wrong", "first", item="b"),
            answer("c1", "wrong", "second", item="c"),
            answer("c2", "wrong", "first", item="c"),
            answer("d1", "correct", "first", item="d"),  # in one order only
            answer("e", "correct", "5"),
        ]
    )
    assert summary["accuracy"] == 5 / 8
    assert summary["both_orders"]["value"] == pytest.approx(1 / 3)
    low, high = summary["both_orders"]["interval"]
    assert low < 1 / 3 < high


def test_several_answers_per_problem() -> None:
    """The first problem's right answers look different, its wrong ones are equal numbers."""
    summary = summarise(
        [
            *(answer("a", "correct", stated) for stated in ("5", "x = 5", "2+3")),
            *(answer("a", "wrong", stated) for stated in ("6", "6.00")),
            *(answer("b", "wrong", stated) for stated in ("x y", "XY", "7")),
            *(answer("b", "correct", "5"), answer("b", "cut_off")),
        ]
    )
    assert (summary["problems"], summary["samples"], summary["answers"]) == (2, 5, 10)
    assert summary["accuracy"] == pytest.approx(0.4)
    assert summary["majority"]["value"] == 0.5
    # 1 - C(2,2)/C(5,2) = 9/10 and 1 - C(4,2)/C(5,2) = 4/10
    assert summary["pass@2"]["value"] == pytest.approx((0.9 + 0.4) / 2)
    assert summary["pass@5"]["value"] == 1
    assert [key for key in summary if key.startswith("pass@")] == [
        "pass@1",
        "pass@2",
        "pass@4",
        "pass@5",
    ]


def test_interval_counts_problems_and_not_answers() -> None:
    """Two problems with equal answers throughout are as good as two answers."""
    rows = [answer("a", "correct", "5")] * 50 + [answer("b", "wrong", "6")] * 50
    # of one among two: 1 - (1 - p)^2 = 0.025
    low = 1 - 0.975**0.5
    assert summarise(rows)["interval"] == pytest.approx((low, 1 - low), abs=1e-7)


def test_no_number_is_cut_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = {"accuracy": 1, "interval": [0.995, 1], "correct": 10_000, "answers": 10_000}
    found |= {"cut_off": 10_000, "could_not_grade": 10_000}
    protocol = {"name": "paper", "version": 1}
    models = {"Q" * 60: {"Z" * 60: {"results": found}}}
    print_results({"protocol": protocol, "models": models})
    printed = capsys.readouterr().out
    assert "100.0% 99.5–100.0% 10000/10000 10000 10000" in " ".join(printed.split())
    assert max(map(len, printed.splitlines())) <= 80
    assert "…" not in printed
    assert (printed.count("Q"), printed.count("Z")) == (60, 60)
