"""``wdl compare``: is one model better than another, on the same problems?

    wdl compare runs/graded/strong_before runs/graded/strong_after

takes two folders that ``wdl evaluate`` has written, one per model. Both must have answered the
same problems under the same protocol, graded in the same way.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wdl.errors import UserError
from wdl.system.files import write_json

MUST_AGREE = {
    "data_sha256": "problems",
    "protocol": "protocol",
    "grader": "grader",
}
MAY_DIFFER = {"prompt_sha256": "prompts (another tokenizer or template)", "engine": "engine"}


@dataclass(frozen=True)
class Graded:
    """The graded answers of one model to one benchmark: share of right answers by problem."""

    inputs: dict[str, Any]
    samples: int
    scores: dict[str, float]


def compare(a: str, b: str, out: str | None = None) -> None:
    """Test whether model B is better than model A, benchmark by benchmark and overall.

    With one answer per problem the test is McNemar's, exactly; with several it is a bootstrap
    over problems of the difference of means.

    Args:
        a: Folder OUT/MODEL of an evaluation: the model to beat.
        b: Folder OUT/MODEL of an evaluation, the same or another.
        out: File for the result as JSON, with the problems that were gained and lost.
    """
    first, second = _read(Path(a)), _read(Path(b))
    shared = [name for name in first if name in second]
    if not shared:
        raise UserError(
            f"{a} has answered {', '.join(first)}, {b} {', '.join(second)}; evaluate both models "
            "on the same benchmarks"
        )
    _check(a, b, {name: (first[name], second[name]) for name in shared})
    result: dict[str, Any] = {"a": a, "b": b, "benchmarks": {}}
    for name in shared:
        result["benchmarks"][name] = _test({name: first[name]}, {name: second[name]})
    if len(shared) > 1:
        result["overall"] = _test(
            {name: first[name] for name in shared}, {name: second[name] for name in shared}
        )
    result["notes"] = _notes(first, second, shared)
    if out is not None:
        write_json(Path(out), result)
    _print(result)


def _read(folder: Path) -> dict[str, Graded]:
    """The results of a model by benchmark."""
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder; give OUT/MODEL of an evaluation")
    graded: dict[str, Graded] = {}
    for record_file in sorted(folder.glob("*.json")):
        record = json.loads(record_file.read_text(encoding="utf-8"))
        answers_file = record_file.with_suffix(".jsonl")
        if not (isinstance(record, dict) and "inputs" in record and answers_file.is_file()):
            continue
        right: dict[str, list[bool]] = {}
        with answers_file.open(encoding="utf-8") as lines:
            for line in lines:
                answer = json.loads(line)
                right.setdefault(answer["id"], []).append(answer["status"] == "correct")
        scores = {problem: sum(all_) / len(all_) for problem, all_ in right.items()}
        samples = record["results"]["samples"]
        graded[record_file.stem] = Graded(record["inputs"], samples, scores)
    if not graded:
        raise UserError(f"{folder}: it holds no results; give OUT/MODEL of an evaluation")
    return graded


def _check(a: str, b: str, pairs: dict[str, tuple[Graded, Graded]]) -> None:
    """Refuse results that were not made in the same way."""
    faults = [
        f"{name}: {a} and {b} have another {title}; evaluate both in the same way"
        for name, (one, other) in pairs.items()
        for key, title in MUST_AGREE.items()
        if one.inputs[key] != other.inputs[key]
    ]
    if faults:
        raise UserError(*faults)


def _notes(first: dict[str, Graded], second: dict[str, Graded], shared: list[str]) -> list[str]:
    """What differs, or is left out, without forbidding the comparison."""
    notes = [
        f"{name}: the two models have another {title}"
        for name in shared
        for key, title in MAY_DIFFER.items()
        if first[name].inputs.get(key) != second[name].inputs.get(key)
    ]
    lonely = sorted(first.keys() ^ second.keys())
    return notes + [f"{name}: only one of the models has answered it" for name in lonely]


def _test(first: dict[str, Graded], second: dict[str, Graded]) -> dict[str, Any]:
    """Difference, interval and p-value over all problems of some benchmarks."""
    import torch

    from wdl.metrics.paired import mcnemar, paired_bootstrap

    names = [(name, problem) for name, graded in first.items() for problem in graded.scores]
    before = torch.tensor([first[name].scores[problem] for name, problem in names])
    after = torch.tensor([second[name].scores[problem] for name, problem in names])
    label = [problem if len(first) == 1 else f"{name}/{problem}" for name, problem in names]
    gained = [label[i] for i in (after > before).nonzero()[:, 0].tolist()]
    lost = [label[i] for i in (after < before).nonzero()[:, 0].tolist()]
    single = all(graded.samples == 1 for graded in (*first.values(), *second.values()))
    difference = paired_bootstrap((after - before).double())
    return {
        "problems": len(names),
        "accuracy_a": before.double().mean().item(),
        "accuracy_b": after.double().mean().item(),
        "difference": difference.mean,
        "interval": [difference.low, difference.high],
        "test": "McNemar, exact" if single else "paired bootstrap",
        "p_value": mcnemar(len(gained), len(lost)) if single else difference.p_value,
        "gained": gained,
        "lost": lost,
    }


def _print(result: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, column in enumerate(
        ("benchmark", "A", "B", "B - A", "95 %", "gained", "lost", "p")
    ):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    rows = result["benchmarks"] | ({"overall": result["overall"]} if "overall" in result else {})
    for name, row in rows.items():
        low, high = row["interval"]
        table.add_row(
            *(name, f"{row['accuracy_a']:.1%}", f"{row['accuracy_b']:.1%}"),
            *(f"{row['difference']:+.1%}", f"{100 * low:+.1f} – {high:+.1%}"),
            *(str(len(row["gained"])), str(len(row["lost"])), f"{row['p_value']:.3g}"),
        )
    console = Console()
    console.print(f"A = {result['a']}\nB = {result['b']}", highlight=False)
    console.print(table)
    for note in result["notes"]:
        console.print(f"note: {note}", highlight=False)
