"""Which of two models' answers a teacher prefers, over all problems of their shared benchmarks.

What ``wdl compare --teacher`` adds to the comparison by grades: for each problem the answers of
both models go to the teacher in both orders (:mod:`wdl.grading.pairwise`).
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from wdl.errors import UserError
from wdl.evaluation.graded import MAKE_AGAIN, Graded
from wdl.grading.pairwise import Pair, PairwiseJudge, Ruling
from wdl.remote.endpoint import Teacher
from wdl.remote.teacher import TeacherClient
from wdl.system.child import resumable
from wdl.system.files import write_lines

SCORE = {"a": -1.0, "tie": 0.0, "b": 1.0}


@dataclass(frozen=True)
class Judged:
    """The ruling on one answer each of both models to a problem."""

    problem: str
    sample: int
    ruling: Ruling


def add_preferences(
    compared: Sequence[dict[str, Any]],
    graded: Mapping[str, Mapping[str, Graded]],
    teacher: Teacher,
    out: Path,
) -> dict[str, float]:
    """Add ``judge`` to each comparison: who judged, told what, and what it prefers by benchmark.

    Args:
        compared: Comparisons of models ``a`` and ``b``, as ``wdl compare`` writes them.
        graded: Their answers, by model and benchmark.
        teacher: Who judges.
        out: File of the comparison; the teacher's replies and its preferences stand beside it.

    Returns:
        The teacher's bill.

    Raises:
        UserError: Answers cannot be judged in pairs, or the teacher refuses.
        SystemExit: It does not answer; what it did is kept.
    """
    pairs = [
        {
            name: read_pairs(graded[one["a"]][name], graded[one["b"]][name])
            for name in one["benchmarks"]
        }
        for one in compared
    ]
    rows: list[dict[str, Any]] = []
    client = TeacherClient(teacher, out.with_suffix(".teacher.jsonl"))
    with closing(client), resumable("the teacher"):
        judge = PairwiseJudge(client)
        for one, of_one in zip(compared, pairs, strict=True):
            judged = judge_pairs(of_one, judge)
            said = {name: preferences({name: rulings}) for name, rulings in judged.items()}
            one["judge"] = {**judge.describe(), "benchmarks": said}
            if len(judged) > 1:
                one["judge"]["overall"] = preferences(judged)
            one["notes"] += _notes(one)
            rows += [{"a": one["a"], "b": one["b"], **row} for row in as_rows(judged)]
        bill = client.bill()
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    write_lines(out.with_suffix(".preferred.jsonl"), lines)
    return bill


def read_pairs(first: Graded, second: Graded) -> dict[tuple[str, int], Pair]:
    """The answers of both models side by side, by problem and number of the sample.

    Raises:
        UserError: They have not as many answers each, a line has no text, or pictures, which a
            teacher is not shown.
    """
    rows, others = (_rows(graded) for graded in (first, second))
    if first.samples != second.samples:
        raise UserError(
            f"{first.file}: answers to a problem: {first.samples}, in {second.file}: "
            f"{second.samples}; a judge needs as many of both"
        )
    return {
        key: Pair(row["question"], row["reference"], row["completion"], others[key]["completion"])
        for key, row in rows.items()
    }


def _rows(graded: Graded) -> dict[tuple[str, int], dict[str, Any]]:
    found = {}
    for number, line in enumerate(graded.file.read_bytes().splitlines(), start=1):
        row = json.loads(line)
        texts = (row.get(key) for key in ("question", "reference", "completion"))
        if not all(isinstance(text, str) for text in texts):
            raise UserError(f"{graded.file}:{number}: it has no question or answer; {MAKE_AGAIN}")
        if row.get("images"):
            raise UserError(
                f"{graded.file}:{number}: the problem has pictures, which a teacher is not shown; "
                "compare without --teacher"
            )
        found[row["id"], row["sample"]] = row
    return found


def judge_pairs(
    pairs: Mapping[str, Mapping[tuple[str, int], Pair]], judge: PairwiseJudge
) -> dict[str, list[Judged]]:
    """Rulings on all pairs, by benchmark; raises as :meth:`PairwiseJudge.judge`."""
    rulings = iter(judge.judge([pair for of_one in pairs.values() for pair in of_one.values()]))
    return {name: [Judged(*key, next(rulings)) for key in of_one] for name, of_one in pairs.items()}


def preferences(judged: Mapping[str, Sequence[Judged]]) -> dict[str, Any]:
    """What the rulings on some benchmarks amount to, every problem weighing equally.

    Returns:
        ``wins`` of the second model, its ``losses``, ``ties`` and what is ``ungraded``, in answers;
        ``score``, the mean over problems of +1 for a win, 0 for a tie and -1 for a loss, ungraded
        answers left out, with its ``interval`` at 95 % and ``p_value`` (McNemar's exact test, or
        Gaffke's with several answers); of the pairs that were asked in both orders, the share
        ``consistent`` with itself; and of the replies that were no tie, the share
        ``first_preferred`` of the answer in the first place, where a judge without bias has 0.5.
    """
    from torch import float64, tensor

    from wdl.metrics.paired import paired_test

    every = [(name, one) for name, of_one in judged.items() for one in of_one]
    counts = Counter(one.ruling.preference for _, one in every)
    scores: dict[tuple[str, str], list[float]] = {}
    for name, one in every:
        if one.ruling.preference != "ungraded":
            scores.setdefault((name, one.problem), []).append(SCORE[one.ruling.preference])
    both = [one.ruling for _, one in every if one.ruling.places and None not in one.ruling.places]
    consistent = [set(one.places) in ({"first", "second"}, {"tie"}) for one in both]
    decided = [place for one in both for place in one.places if place != "tie"]
    found: dict[str, Any] = {
        "answers": len(every),
        "wins": counts["b"],
        "losses": counts["a"],
        "ties": counts["tie"],
        "ungraded": counts["ungraded"],
        "asked": len(both) + counts["ungraded"],
        "consistent": fmean(consistent) if both else None,
        "first_preferred": fmean(place == "first" for place in decided) if decided else None,
    }
    if scores:
        test = paired_test(tensor([fmean(row) for row in scores.values()], dtype=float64))
        found |= {
            "problems": len(scores),
            "score": test.mean,
            "interval": [test.low, test.high],
            "p_value": test.p_value,
        }
    return found


def as_rows(judged: Mapping[str, Sequence[Judged]]) -> list[dict[str, Any]]:
    """Every ruling, for the record."""
    return [
        {
            "benchmark": name,
            "id": one.problem,
            "sample": one.sample,
            "preferred": one.ruling.preference,
            "places": list(one.ruling.places),
            **({"detail": one.ruling.detail} if one.ruling.detail else {}),
        }
        for name, of_one in judged.items()
        for one in of_one
    ]


def _notes(comparison: dict[str, Any]) -> list[str]:
    """For readers of the comparison: what the judge prefers, and how far it agrees with itself."""
    judge = comparison["judge"]
    return [
        f"{name}: {judge['model']} prefers {comparison['b']} in {said['wins']}, {comparison['a']} "
        f"in {said['losses']} of {said['answers']} pairs of answers"
        for name, said in judge["benchmarks"].items()
    ]


def print_preferences(comparison: dict[str, Any]) -> None:
    """What the judge prefers, as a table on the screen."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    judge = comparison["judge"]
    title = f"preferred by {judge['model']}, each pair in both orders"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    columns = ("benchmark", "B", "A", "tie", "none", "score", "95 %", "p", "same", "first")
    for number, column in enumerate(columns):
        if number:
            table.add_column(column, justify="right", no_wrap=True)
        else:
            table.add_column(column, overflow="fold")
    overall = {"all problems": judge["overall"]} if "overall" in judge else {}
    for name, said in (judge["benchmarks"] | overall).items():
        counts = (str(said[key]) for key in ("wins", "losses", "ties", "ungraded"))
        if "score" in said:
            low, high = said["interval"]
            test = f"{said['score']:+.2f}", f"{low:+.2f} – {high:+.2f}", f"{said['p_value']:.3g}"
        else:
            test = "", "", ""
        shares = (
            "" if said[key] is None else f"{said[key]:.0%}"
            for key in ("consistent", "first_preferred")
        )
        table.add_row(name, *counts, *test, *shares)
    console = Console()
    console.print(table)
    console.print(
        "B, A: preferred in both orders; none: no usable reply; same: pairs judged alike in\n"
        "both orders; first: verdicts for what came first, 50% without bias",
        highlight=False,
    )
