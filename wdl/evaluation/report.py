"""What the graded answers to one benchmark amount to, as a record; and records as a table."""

from collections import Counter
from collections.abc import Hashable, Sequence
from itertools import groupby
from operator import itemgetter
from statistics import fmean
from typing import Any

from wdl.grading.grader import STATUSES
from wdl.grading.plain_numbers import parse_number

Answer = dict[str, Any]


def summarise(answers: Sequence[Answer], votes: bool = True) -> dict[str, Any]:
    """Metrics and counts of the filed answers to one benchmark, n to each problem in turn.

    Returns:
        ``accuracy`` is the share of right answers (mean@n), with ``interval`` at 95 %: Wilson's
        for one answer per problem, otherwise Gaffke's over problems. With several answers
        also the unbiased ``pass@k`` and, unless ``votes`` is off, as for programs, which never
        agree word by word, the ``majority`` vote, each with its interval. Of problems
        that are asked with their pictures in several orders, ``both_orders`` is the share of items
        that are right in all, by answers of the same number. Then how many answers have each
        status, the share that the limit of tokens ended, and their mean length.
    """
    from wdl.metrics.intervals import wilson  # torch, which the command's --help does without
    from wdl.metrics.per_problem import majority, pass_at_k

    problems = [list(rows) for _, rows in groupby(answers, itemgetter("id"))]
    samples = len(problems[0])
    correct = [[answer["status"] == "correct" for answer in rows] for rows in problems]
    counts = Counter(answer["status"] for answer in answers)
    mean = _mean([fmean(row) for row in correct])
    summary: dict[str, Any] = {
        "accuracy": mean["value"],
        "interval": wilson(counts["correct"], len(answers)) if samples == 1 else mean["interval"],
        "problems": len(problems),
        "samples": samples,
        "answers": len(answers),
        **{status: counts[status] for status in STATUSES},
        "cut_off_rate": fmean(answer["finish_reason"] == "length" for answer in answers),
        "new_tokens": fmean(answer["new_tokens"] for answer in answers),
    }
    if samples > 1:
        powers_of_two = (1 << shift for shift in range(samples.bit_length()))
        for k in sorted({*powers_of_two, samples}):
            summary[f"pass@{k}"] = _mean([pass_at_k(sum(row), samples, k) for row in correct])
    if samples > 1 and votes:
        stated = ([_vote(answer) for answer in rows] for rows in problems)
        summary["majority"] = _mean([majority(*row) for row in zip(correct, stated, strict=True)])
    if both := _both_orders(problems):
        summary["both_orders"] = _mean(both)
    return summary


def _both_orders(problems: Sequence[Sequence[Answer]]) -> list[float]:
    """Of each item, the share of answers that are right in all of its orders."""
    items: dict[str, list[list[bool]]] = {}
    for rows in problems:
        if "item" in rows[0]:
            right = [answer["status"] == "correct" for answer in rows]
            items.setdefault(rows[0]["item"], []).append(right)
    several = (orders for orders in items.values() if len(orders) > 1)
    return [fmean(map(all, zip(*orders, strict=True))) for orders in several]


def print_results(summary: dict[str, Any]) -> None:
    """The accuracies of a ``summary.json`` as a table on the screen."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    protocol = summary["protocol"]
    title = f"protocol {protocol['name']} v{protocol['version']}"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    columns = ("model", "benchmark", "accuracy", "95 %", "correct", "cut off", "ungraded")
    for number, column in enumerate(columns):
        if number < 2:
            table.add_column(column, overflow="fold")
        else:
            table.add_column(column, justify="right", no_wrap=True)
    for label, benchmarks in summary["models"].items():
        for benchmark, record in benchmarks.items():
            found = record["results"]
            low, high = found["interval"]
            shares = f"{found['accuracy']:.1%}", f"{100 * low:.1f}–{high:.1%}"
            counts = f"{found['correct']}/{found['answers']}", found["cut_off"]
            table.add_row(label, benchmark, *shares, *map(str, (*counts, found["could_not_grade"])))
            if both := found.get("both_orders"):
                low, high = both["interval"]
                shares = f"{both['value']:.1%}", f"{100 * low:.1f}–{high:.1%}"
                table.add_row("", "  both orders", *shares)
    Console().print(table)


def _mean(values: Sequence[float]) -> dict[str, Any]:
    """Of one value per problem; answers to the same problem depend on each other."""
    from torch import float64, tensor

    from wdl.metrics.intervals import bounded_mean

    return {"value": fmean(values), "interval": bounded_mean(tensor(values, dtype=float64))}


def _vote(answer: Answer) -> Hashable:
    """What an answer counts as, the same for equal answers to one problem; None for none.

    All right answers are equal to the reference and so to each other; wrong ones are compared as
    plain numbers or else by their letters.
    """
    if answer["status"] == "correct":
        return True
    stated = answer["answer"] or ""
    return parse_number(stated) or "".join(stated.split()).lower() or None
