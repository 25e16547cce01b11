"""The registry, and benchmarks that users define."""

from pathlib import Path

import pytest

from wdl.errors import UserError
from wdl.questions.benchmarks import BENCHMARKS, find_benchmarks
from wdl.questions.problems import load_problems


def test_the_sets_are_there_with_their_sizes() -> None:
    sizes = {name: benchmark.rows for name, benchmark in BENCHMARKS.items()}
    assert sizes == {
        "aime2025": 30,
        "amc23": 40,
        "math500": 500,
        "aqua": 254,
        "gsm8k": 1319,
        "mawps": 238,
        "svamp": 1000,
        "logiqa2": 1572,
        "reclor": 500,
        "arithmetic": None,
        "humaneval": 164,
        "humanevalplus": 164,
        "mbpp": 500,
        "mbppplus": 378,
        "bigcodebench": 1140,
        "livecodebench": 175,
    }


def test_names_in_a_list() -> None:
    assert [b.name for b in find_benchmarks("gsm8k, amc23")] == ["gsm8k", "amc23"]


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        ("gsm9k", "choose from aime2025"),
        ("", "name at least one"),
        ("gsm8k,gsm8k", "occurs twice"),
        ("none.yaml", "no such file"),
    ],
)
def test_unknown_names(names: str, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        find_benchmarks(names)


def test_a_benchmark_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"question": "1+1?", "answer": "2"}\n')
    (folder / "sums.yaml").write_text("name: sums\nkind: number\nrows: 1\npath: rows.jsonl\n")
    (benchmark,) = find_benchmarks(str(folder / "sums.yaml"))
    monkeypatch.chdir("/")
    assert benchmark.kind == "number"
    assert load_problems(benchmark)[0].reference == "2"


@pytest.mark.parametrize("line", ["kind: figure", "rows: many", "colour: blue"])
def test_a_faulty_definition_names_its_file(tmp_path: Path, line: str) -> None:
    file = tmp_path / "sums.yaml"
    file.write_text(f"name: sums\n{line}\n")
    with pytest.raises(UserError, match=line.split(":")[0]) as caught:
        find_benchmarks(str(file))
    assert str(caught.value).startswith(str(file))
