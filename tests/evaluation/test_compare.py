"""``wdl compare`` on results whose differences are known."""

import json
import math
import subprocess
import sys
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
    # 30 of 40 problems, all by as much, in one direction
    chance = sum(math.comb(40, k) for k in range(11)) / 2**40
    assert result["p_value"] == pytest.approx(2 * chance)
    assert result["interval"][0] > 0


def test_overall_counts_the_problems_of_all_benchmarks() -> None:
    for name in ("sums", "products"):
        write("a", [0, 0, 1], benchmark=name)
        write("b", [1, 0, 1], benchmark=name)
    result = compared("a", "b")
    assert set(result["benchmarks"]) == {"sums", "products"}
    assert result["overall"]["problems"] == 6
    assert result["overall"]["gained"] == ["products/p0", "sums/p0"]
    assert result["overall"]["p_value"] == pytest.approx(0.5)


def test_overall_says_what_it_weighs(capsys: pytest.CaptureFixture[str]) -> None:
    write("a", [0] * 30)
    write("b", [1] * 15 + [0] * 15)
    write("a", [1, 0], benchmark="products")
    write("b", [0, 0], benchmark="products")
    result = compared("a", "b")
    assert result["overall"]["weighs"] == "every problem equally"
    assert result["overall"]["difference"] == pytest.approx((15 - 1) / 32)
    assert result["macro"]["weighs"] == "every benchmark equally"
    assert result["macro"]["difference"] == pytest.approx((0.5 - 0.5) / 2)
    assert result["macro"]["accuracy_b"] == pytest.approx((0.5 + 0) / 2)
    assert "every benchmark equally" in capsys.readouterr().out


def test_p_values_are_adjusted_for_the_number_of_benchmarks() -> None:
    for name, gained in (("sums", 6), ("products", 7), ("quotients", 5)):
        write("a", [0] * 10, benchmark=name)
        write("b", [1] * gained + [0] * (10 - gained), benchmark=name)
    rows = compared("a", "b")["benchmarks"]
    assert rows["products"]["p_holm"] == pytest.approx(3 * 2 / 2**7)
    assert rows["sums"]["p_holm"] == pytest.approx(2 * 2 / 2**6)
    assert rows["quotients"]["p_holm"] == pytest.approx(2 / 2**5)


def test_too_few_problems_are_said_to_be_too_few() -> None:
    write("a", [0] * 5)
    write("b", [1] * 5)
    result = compared("a", "b")
    assert result["benchmarks"]["sums"]["smallest_p"] == 2 / 2**5
    assert result["benchmarks"]["sums"]["interval"][0] < 0
    assert result["notes"] == ["sums: 5 problems are too few for any significant difference"]


def test_every_further_model_is_compared_with_the_first() -> None:
    write("a", [0, 0, 1, 0])
    write("b", [1, 1, 1, 0])
    write("c", [0, 0, 0, 0])
    compare(["a", "b", "c"], out="several.json")
    result = json.loads(Path("several.json").read_text())
    assert result["a"] == "a"
    assert [one["b"] for one in result["comparisons"]] == ["b", "c"]
    differences = [one["benchmarks"]["sums"]["difference"] for one in result["comparisons"]]
    assert differences == pytest.approx([0.5, -0.25])
    assert result["comparisons"][0] == compared("a", "b")


def test_a_plot_stands_beside_the_result() -> None:
    for name in ("sums", "products"):
        write("a", [0, 0, 1], benchmark=name)
        write("b", [1, 0, 1], benchmark=name)
    compared("a", "b")
    picture = Path("out.svg").read_bytes()
    assert picture.startswith(b"<?xml")
    compared("a", "b")
    assert Path("out.svg").read_bytes() == picture
    with pytest.raises(UserError, match=r"the plot would take its place"):
        compare(["a", "b"], out="out.svg")
    with pytest.raises(UserError, match=r"the page would take its place"):
        compare(["a", "b"], out="out.html")


def test_no_number_is_cut_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    benchmark = "Q" * 60
    write("a", [1] * 2000 + [0] * 8000, benchmark=benchmark)
    write("b", [0] * 2000 + [1] * 2200 + [0] * 5800, benchmark=benchmark)
    compare(["a", "b"])
    printed = capsys.readouterr().out
    (row,) = compared("a", "b")["benchmarks"].values()
    low, high = row["interval"]
    numbers = f"+2.0% {100 * low:+.1f} – {high:+.1%} 2200 2000 {row['p_value']:.3g}"
    assert numbers in " ".join(printed.split())
    assert "…" not in printed and max(map(len, printed.splitlines())) <= 80
    assert printed.count("Q") >= 60


LINE = '{"id": "p1", "sample": 0, "status": "correct"}'


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["{", LINE], r"b/sums.jsonl:1: it is no graded answer"),
        (["[1]", LINE], r"b/sums.jsonl:1: it is no graded answer"),
        (["", LINE], r"b/sums.jsonl:1: it is no graded answer"),
        (['{"id": "p0", "sample": 0}', LINE], r"b/sums.jsonl:1: it is no graded answer"),
        (
            ['{"id": "p0", "sample": 0, "status": "fine"}', LINE],
            r"b/sums.jsonl:1: it is no graded answer",
        ),
        ([LINE, LINE], r"b/sums.jsonl:2: sample 0 of problem 'p1' is there already"),
        ([LINE], r"b/sums.jsonl: problem 'p0' is missing, which a/sums.jsonl has"),
        (
            [LINE.replace("p1", "p0"), LINE, LINE.replace(": 0", ": 1")],
            r"b/sums.jsonl: problem 'p1' has 2 answers, not 1",
        ),
    ],
)
def test_broken_rows_are_named(lines: list[str], fault: str) -> None:
    write("a", [1, 1])
    write("b", [1, 1])
    Path("b/sums.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=fault):
        compare(["a", "b"])


def test_a_broken_record_is_named() -> None:
    write("a", [1, 1])
    write("b", [1, 1])
    Path("b/sums.json").write_text('{"inputs": {')
    with pytest.raises(UserError, match=r"b/sums.json: it is no whole record"):
        compare(["a", "b"])
    write("b", [1, 1])
    Path("b/sums.jsonl").unlink()
    with pytest.raises(UserError, match=r"b/sums.jsonl: the answers of sums.json are not there"):
        compare(["a", "b"])


def test_the_command_takes_any_number_of_folders() -> None:
    for model in ("a", "b", "c"):
        write(model, [1, 0])
    command = [sys.executable, "-m", "wdl", "compare"]
    done = subprocess.run(
        [*command, "a", "b", "c", "--out", "x.json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert Path("x.json").is_file() and Path("x.svg").is_file()
    done = subprocess.run([*command, "a"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "give two folders or more" in done.stderr and "Traceback" not in done.stderr


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
        "sums: 2 problems are too few for any significant difference",
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
