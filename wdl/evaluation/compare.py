"""``wdl compare``: is one model better than another, on the same problems?

    wdl compare runs/graded/strong_before runs/graded/strong_after

takes folders that ``wdl evaluate`` has written, one per model; every further model is compared
with the first. All must have answered the same problems under the same protocol, graded in the
same way. With ``--teacher``, a model judges the answers in pairs too.
"""

from collections.abc import Collection, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from wdl.errors import UserError
from wdl.evaluation.graded import MAKE_AGAIN, Graded, read_graded
from wdl.evaluation.page import Results, write_page
from wdl.remote.endpoint import Teacher, bill_line
from wdl.system.files import write_json
from wdl.system.outcome import leave_outcome

MUST_AGREE = {
    "data_sha256": "problems",
    "protocol": "protocol",
    "examples_sha256": "examples",
    "grader": "grader",
}
OUTCOME = ("difference", "p_value")
MAY_DIFFER = {"prompt_sha256": "prompts (another tokenizer or template)", "engine": "engine"}
SIGNIFICANT = 0.05
BESIDE = {".svg": "plot", ".html": "page"}


def compare(models: list[str], out: str | None = None, teacher: Teacher | None = None) -> None:
    """Test whether models are better than the first one, benchmark by benchmark and overall.

    The test is over problems: McNemar's, exactly, with one answer per problem, and Gaffke's for
    means with several. Its p-value is below 0.05 if and only if its interval excludes 0. With
    several benchmarks, p-values adjusted for their number (Holm) stand beside.

    Args:
        models: Folders OUT/MODEL of evaluations, the same or others; the first is the one to beat.
        out: File for the result as JSON, with the problems that were gained and lost; a plot of the
            differences is written beside it as SVG, and all answers to look through as HTML.
        teacher: Where a model is that is asked which of two answers to a question is better, in
            both orders; needs ``out``. Its replies are kept in NAME.teacher.jsonl beside it, what
            it prefers is in NAME.preferred.jsonl.
    """
    if len(models) < 2:
        raise UserError("compare: give two folders or more, the model to beat first")
    if out is not None and Path(out).suffix in BESIDE:
        beside = BESIDE[Path(out).suffix]
        raise UserError(f"--out {out}: the {beside} would take its place; give a .json file")
    if teacher is not None and out is None:
        raise UserError("compare: --teacher needs --out, beside which its replies are kept")
    graded = {model: read_graded(Path(model)) for model in models}
    a, *others = models
    compared = [_compare(a, b, graded[a], graded[b]) for b in others]
    bill: dict[str, float] = {}
    if teacher is not None and out is not None:
        from wdl.evaluation.preferred import add_preferences

        bill = add_preferences(compared, graded, teacher, Path(out))
    if out is not None:
        result = compared[0] if len(compared) == 1 else {"a": a, "comparisons": compared}
        write_json(Path(out), result)
        from wdl.evaluation.figures import write_comparison

        write_comparison(compared, Path(out).with_suffix(".svg"))
        write_page(_results(graded, compared), Path(out).with_suffix(".html"))
    for comparison in compared:
        _print(comparison)
        if teacher is not None:
            from wdl.evaluation.preferred import print_preferences

            print_preferences(comparison)
    if bill:
        print(bill_line(bill))
    leave_outcome(
        bill,
        {
            f"{comparison['b']}/{name}/{key}": row[key]
            for comparison in compared
            for name, row in comparison["benchmarks"].items()
            for key in OUTCOME
        },
    )


def compare_with_first(
    folders: Mapping[str, Path], names: Collection[str]
) -> tuple[list[dict[str, Any]], list[str]]:
    """What ``wdl compare`` says of the models, and why it does not of those that it refuses.

    Args:
        folders: OUT/MODEL by label, the model to beat first.
        names: The benchmarks to look at.
    """
    compared: list[dict[str, Any]] = []
    refused: list[str] = []
    labels = list(folders)
    for a, b in product(labels[:1], labels[1:]):
        try:
            first, second = (read_graded(folders[model], names) for model in (a, b))
            compared.append(_compare(a, b, first, second))
        except UserError as error:
            refused += [f"{b} is not compared with {a}: {fault}" for fault in error.faults]
    return compared, refused


def _results(graded: dict[str, dict[str, Graded]], compared: list[dict[str, Any]]) -> Results:
    records = {
        model: {n: {"results": one.results, "inputs": one.inputs} for n, one in of_model.items()}
        for model, of_model in graded.items()
    }
    return Results({model: Path(model) for model in graded}, records, compared)


def _compare(a: str, b: str, first: dict[str, Graded], second: dict[str, Graded]) -> dict[str, Any]:
    """All tests of one model against another."""
    from wdl.metrics.paired import holm

    shared = [name for name in first if name in second]
    if not shared:
        raise UserError(
            f"{a} has answered {', '.join(first)}, {b} {', '.join(second)}; evaluate both models "
            "on the same benchmarks"
        )
    pairs = {name: (first[name], second[name]) for name in shared}
    _check(a, b, pairs)
    rows = {name: _test({name: pair}) for name, pair in pairs.items()}
    adjusted = holm([row["p_value"] for row in rows.values()])
    for row, p_value in zip(rows.values(), adjusted, strict=True):
        row["p_holm"] = p_value
    result: dict[str, Any] = {"a": a, "b": b, "benchmarks": rows}
    if len(shared) > 1:
        result["overall"] = {"weighs": "every problem equally", **_test(pairs)}
        result["macro"] = {"weighs": "every benchmark equally", **_test(pairs, macro=True)}
    return result | {"notes": _notes(first, second, rows)}


def _check(a: str, b: str, pairs: dict[str, tuple[Graded, Graded]]) -> None:
    """Refuse results that were not made in the same way, or not of the same problems."""
    faults = [
        f"{name}: {a} and {b} have another {title}; evaluate both in the same way"
        for name, (one, other) in pairs.items()
        for key, title in MUST_AGREE.items()
        if one.inputs.get(key) != other.inputs.get(key)
    ]
    faults += [
        f"{lacking.file}: problem {problem!r} is missing, which {having.file} has; {MAKE_AGAIN}"
        for pair in pairs.values()
        for having, lacking in (pair, pair[::-1])
        for problem in having.scores
        if problem not in lacking.scores
    ]
    if faults:
        raise UserError(*faults)


def _notes(
    first: dict[str, Graded], second: dict[str, Graded], rows: dict[str, dict[str, Any]]
) -> list[str]:
    """What differs, is left out or cannot be shown, without forbidding the comparison."""
    notes = [
        f"{name}: the two models have another {title}"
        for name in rows
        for key, title in MAY_DIFFER.items()
        if first[name].inputs.get(key) != second[name].inputs.get(key)
    ]
    notes += [
        f"{name}: {row['problems']} problems are too few for any significant difference"
        for name, row in rows.items()
        if row["smallest_p"] >= SIGNIFICANT
    ]
    lonely = sorted(first.keys() ^ second.keys())
    return notes + [f"{name}: only one of the models has answered it" for name in lonely]


def _test(pairs: dict[str, tuple[Graded, Graded]], macro: bool = False) -> dict[str, Any]:
    """Both models on all problems of some benchmarks; ``macro`` weighs each benchmark equally."""
    import torch

    from wdl.metrics.paired import paired_test

    problems = [(name, problem) for name, (one, _) in pairs.items() for problem in one.scores]
    before, after = (
        torch.tensor([pairs[name][side].scores[problem] for name, problem in problems]).double()
        for side in (0, 1)
    )
    sizes = torch.tensor([len(pairs[name][0].scores) for name, _ in problems]).double()
    weights = len(problems) / len(pairs) / sizes if macro else torch.ones(len(problems)).double()
    label = [problem if len(pairs) == 1 else f"{name}/{problem}" for name, problem in problems]
    difference = paired_test((after - before) * weights, weights.max().item())
    single = all(graded.samples == 1 for pair in pairs.values() for graded in pair) and not macro
    return {
        "problems": len(problems),
        "accuracy_a": (before * weights).mean().item(),
        "accuracy_b": (after * weights).mean().item(),
        "difference": difference.mean,
        "interval": [difference.low, difference.high],
        "test": "McNemar, exact" if single else "Gaffke",
        "p_value": difference.p_value,
        "smallest_p": difference.smallest_p,
        "gained": [label[i] for i in (after > before).nonzero()[:, 0].tolist()],
        "lost": [label[i] for i in (after < before).nonzero()[:, 0].tolist()],
    }


def _print(result: dict[str, Any]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for number, column in enumerate(
        ("benchmark", "A", "B", "B - A", "95 %", "gained", "lost", "p", "p Holm")
    ):
        if number:
            table.add_column(column, justify="right", no_wrap=True)
        else:
            table.add_column(column, overflow="fold")
    names = {"overall": "all problems", "macro": "all benchmarks"}
    overall = {name: result[key] for key, name in names.items() if key in result}
    for name, row in (result["benchmarks"] | overall).items():
        low, high = row["interval"]
        table.add_row(
            *(name, f"{row['accuracy_a']:.1%}", f"{row['accuracy_b']:.1%}"),
            *(f"{row['difference']:+.1%}", f"{100 * low:+.1f} – {high:+.1%}"),
            *(str(len(row["gained"])), str(len(row["lost"])), f"{row['p_value']:.3g}"),
            f"{row['p_holm']:.3g}" if "p_holm" in row else "",
        )
    console = Console()
    console.print(f"A = {result['a']}\nB = {result['b']}", highlight=False)
    console.print(table)
    weighs = [f"{name}: weighs {row['weighs']}" for name, row in overall.items()]
    for note in weighs + result["notes"]:
        console.print(f"note: {note}", highlight=False)
