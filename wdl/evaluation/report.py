"""What a set of graded answers amounts to, as a record and as a table."""

from collections import Counter
from collections.abc import Sequence
from statistics import mean
from typing import Any

from wdl.evaluation.grading import STATUSES
from wdl.metrics.intervals import wilson


def summarise(answers: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy and counts of the graded answers to one benchmark.

    Returns:
        ``accuracy`` is the share of correct answers (mean@n with n samples per problem), with
        ``interval`` at 95 % (Wilson); then how many ``answers`` and ``problems`` there are, how
        many answers have each status, how many are ``unended``, and their mean
        length in ``new_tokens``.
    """
    counts = Counter(answer["status"] for answer in answers)
    return {
        "accuracy": counts["correct"] / len(answers),
        "interval": wilson(counts["correct"], len(answers)),
        "problems": len({answer["id"] for answer in answers}),
        "answers": len(answers),
        **{status: counts[status] for status in STATUSES},
        "unended": sum(answer["finish_reason"] == "length" for answer in answers),
        "new_tokens": mean(answer["new_tokens"] for answer in answers),
    }


def print_results(summary: dict[str, Any]) -> None:
    """The accuracies of a ``summary.json`` as a table on the screen."""
    from rich.console import Console
    from rich.table import Table

    protocol = summary["protocol"]
    table = Table(title=f"protocol {protocol['name']} v{protocol['version']}")
    columns = ("model", "benchmark", "accuracy", "95 % interval", "correct", "cut off", "ungraded")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 2 else "right")
    for label, benchmarks in summary["models"].items():
        for benchmark, record in benchmarks.items():
            found = record["results"]
            low, high = found["interval"]
            table.add_row(
                *(label, benchmark, f"{found['accuracy']:.1%}", f"{low:.1%} – {high:.1%}"),
                f"{found['correct']}/{found['answers']}",
                *(str(found["cut_off"]), str(found["could_not_grade"])),
            )
    Console().print(table)
