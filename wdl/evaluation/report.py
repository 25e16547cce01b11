"""What the graded answers to one benchmark amount to, as a record; and records as a table."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from wdl.grading.grader import STATUSES
from wdl.grading.plain_numbers import parse_number

Answer = dict[str, Any]


def summarise(answers: Sequence[Answer]) -> dict[str, Any]:
    """Metrics and counts of the answers to one benchmark.

    Args:
        answers: As they are filed, n to each problem, in the order of the problems.

    Returns:
        ``accuracy`` is the share of right answers (mean@n), with ``interval`` at 95 %: Wilson's
        for one answer per problem, otherwise Gaffke's over problems. With several answers
        also the unbiased ``pass@k`` and the ``majority`` vote, each with its interval. Then how
        many answers have each status, the share that the limit of tokens ended, and their mean
        length.
    """
    from torch import tensor  # so that the command's --help does without

    from wdl.metrics.intervals import wilson
    from wdl.metrics.pass_at_k import PassAtK
    from wdl.metrics.per_problem import AnswerLength, CutOffRate, MajorityVote, MeanAtN

    problems = _by_problem(answers)
    samples = len(problems[0])
    correct = tensor([[a["status"] == "correct" for a in row] for row in problems])
    counts = Counter(answer["status"] for answer in answers)
    mean, cut_off, length = MeanAtN(), CutOffRate(), AnswerLength()
    mean.update(correct)
    cut_off.update(tensor([[a["finish_reason"] == "length" for a in row] for row in problems]))
    length.update(tensor([[a["new_tokens"] for a in row] for row in problems]))
    summary: dict[str, Any] = {
        "accuracy": mean.compute().item(),
        "interval": wilson(counts["correct"], len(answers)) if samples == 1 else mean.interval(),
        "problems": len(problems),
        "samples": samples,
        "answers": len(answers),
        **{status: counts[status] for status in STATUSES},
        "cut_off_rate": cut_off.compute().item(),
        "new_tokens": length.compute().item(),
    }
    if samples > 1:
        for k in _powers_of_two(samples):
            passed = PassAtK(k)
            passed.update(correct)
            summary[f"pass@{k}"] = {"value": passed.compute().item(), "interval": passed.interval()}
        vote = MajorityVote()
        vote.update(correct, tensor([_votes(row) for row in problems]))
        summary["majority"] = {"value": vote.compute().item(), "interval": vote.interval()}
    return summary


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
        table.add_column(column, justify="left" if number < 2 else "right", no_wrap=True)
    for label, benchmarks in summary["models"].items():
        for benchmark, record in benchmarks.items():
            found = record["results"]
            low, high = found["interval"]
            table.add_row(
                *(label, benchmark, f"{found['accuracy']:.1%}", f"{100 * low:.1f}–{high:.1%}"),
                f"{found['correct']}/{found['answers']}",
                *(str(found["cut_off"]), str(found["could_not_grade"])),
            )
    Console().print(table)


def _by_problem(answers: Sequence[Answer]) -> list[list[Answer]]:
    problems: dict[str, list[Answer]] = {}
    for answer in answers:
        problems.setdefault(answer["id"], []).append(answer)
    return list(problems.values())


def _powers_of_two(largest: int) -> list[int]:
    """1, 2, 4, ... and ``largest`` itself."""
    powers = [1 << shift for shift in range(largest.bit_length()) if 1 << shift < largest]
    return [*powers, largest]


def _votes(answers: Sequence[Answer]) -> list[int]:
    """Equal numbers for equal answers to one problem, -1 for none.

    All right answers are equal to the reference and so to each other; wrong ones are compared as
    plain numbers or else by their letters.
    """
    classes: dict[Any, int] = {}
    votes = []
    for answer in answers:
        stated = answer["answer"]
        if answer["status"] == "correct":
            stated = ("right",)
        elif stated:
            stated = parse_number(stated) or "".join(stated.split()).lower()
        votes.append(classes.setdefault(stated, len(classes)) if stated else -1)
    return votes
