"""``wdl compare`` on results whose differences are known."""

import json
from pathlib import Path
from typing import Any

import pytest

from wdl.errors import UserError
from wdl.evaluation.compare import compare

INPUTS = {
    "data_sha256": "d",
    "protocol": {"name": "quick"},
    "grader": {"rules": 1},
    "prompt_sha256": "p",
    "engine": {"name": "transformers"},
}


def write(model: str, right: list[Any], benchmark: str = "sums", **inputs: Any) -> str:
    """Results of a model with one, or a list of, verdicts per problem."""
    folder = Path(model)
    folder.mkdir(exist_ok=True)
    rows = [row if isinstance(row, list) else [row] for row in right]
    answers = [
        {"id": f"p{n}", "sample": s, "status": "correct" if verdict else "wrong"}
        for n, row in enumerate(rows)
        for s, verdict in enumerate(row)
    ]
    record = {"inputs": INPUTS | inputs, "results": {"samples": len(rows[0])}}
    (folder / f"{benchmark}.json").write_text(json.dumps(record))
    lines = "".join(json.dumps(answer) + "\n" for answer in answers)
    (folder / f"{benchmark}.jsonl").write_text(lines)
    return model


def compared(a: str, b: str) -> dict[str, Any]:
    compare([a, b], out="out.json")
    return json.loads(Path("out.json").read_text())


def test_gained_and_lost_problems_and_their_test(capsys: pytest.CaptureFixture[str]) -> None:
    a = write("a", [1, 0, 0, 0, 0, 0, 0, 1])
    b = write("b", [0, 1, 1, 1, 1, 1, 1, 1])
    result = compared(a, b)["benchmarks"]["sums"]
    assert result["gained"] == ["p1", "p2", "p3", "p4", "p5", "p6"]
    assert result["lost"] == ["p0"]
    assert result["test"] == "McNemar, exact"
    assert result["p_value"] == pytest.approx(2 * (1 + 7) / 2**7)
    assert (result["accuracy_a"], result["accuracy_b"]) == (0.25, 0.875)
    assert result["difference"] == pytest.approx(0.625)
    assert result["interval"][0] < 0.625 < result["interval"][1]
    assert "+62.5%" in capsys.readouterr().out


def test_several_answers_are_compared_by_their_means() -> None:
    a = write("a", [[1, 0, 0, 0]] * 30 + [[1, 1, 0, 0]] * 10)
    b = write("b", [[1, 1, 0, 0]] * 30 + [[1, 0, 0, 0]] * 10)
    result = compared(a, b)["benchmarks"]["sums"]
    assert result["test"] == "Gaffke"
    assert result["difference"] == pytest.approx(0.25 * 30 / 40 - 0.25 * 10 / 40)
    assert 0 < result["p_value"] < 0.01


def test_overall_counts_the_problems_of_all_benchmarks() -> None:
    for name in ("sums", "products"):
        write("a", [0, 0, 1], benchmark=name)
        write("b", [1, 0, 1], benchmark=name)
    result = compared("a", "b")
    assert set(result["benchmarks"]) == {"sums", "products"}
    assert result["overall"]["problems"] == 6
    assert result["overall"]["gained"] == ["products/p0", "sums/p0"]
    assert result["overall"]["p_value"] == 0.5


@pytest.mark.parametrize(
    ("key", "title"),
    [("protocol", "protocol"), ("data_sha256", "problems"), ("grader", "grader")],
)
def test_results_that_were_made_in_another_way_are_refused(key: str, title: str) -> None:
    write("a", [1, 0])
    write("b", [1, 1], **{key: "another"})
    with pytest.raises(UserError, match=f"sums: a and b have another {title}"):
        compare(["a", "b"])


def test_another_engine_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    write("a", [1, 0])
    write("b", [1, 1], engine={"name": "vllm"})
    write("b", [1, 1], benchmark="products")
    assert compared("a", "b")["notes"] == [
        "sums: the two models have another engine",
        "products: only one of the models has answered it",
    ]
    assert "note: sums" in capsys.readouterr().out


def test_nothing_to_compare() -> None:
    write("a", [1])
    Path("empty").mkdir()
    with pytest.raises(UserError, match="no such folder"):
        compare(["a", "nowhere"])
    with pytest.raises(UserError, match="holds no results"):
        compare(["a", "empty"])
    write("b", [1], benchmark="products")
    with pytest.raises(UserError, match="on the same benchmarks"):
        compare(["a", "b"])
