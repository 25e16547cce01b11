"""A protocol's own grader: it judges, is in the record, and is not mixed up with another."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from wdl.errors import UserError
from wdl.evaluation.compare import compare
from wdl.evaluation.run import evaluate
from wdl.evaluation.sources import Sources


def test_it_judges_and_is_never_taken_for_another(
    pair: tuple[Path, Path], write_rows: Callable[..., Path], tmp_path: Path
) -> None:
    data = write_rows([{"instruction": "1+1?", "answer": "2"}], "sums.jsonl")

    def run(grader: str, out: str, regrade: bool = False) -> None:
        file = tmp_path / "short.yaml"
        file.write_text(f"name: short\nmax_new_tokens: 4\ngrader: {grader}\n")
        model = Sources(str(pair[0]))
        evaluate(model, "arithmetic", out, Sources(str(data)), str(file), regrade=regrade)

    run("rules", "out")
    run("upstream", "theirs")
    (ours,), (theirs,) = (list(Path(out).glob("*/arithmetic.json")) for out in ("out", "theirs"))
    inputs = json.loads(theirs.read_text())["inputs"]
    assert inputs["grader"]["name"] == inputs["protocol"]["grader"] == "upstream"
    with pytest.raises(UserError, match="grader"):
        compare([str(ours.parent), str(theirs.parent)])
    with pytest.raises(UserError, match="protocol"):
        run("upstream", "out", regrade=True)
