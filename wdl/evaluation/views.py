"""Views of a ``summary.json``: its metrics as rows, a CSV table, TensorBoard scalars and text."""

import csv
import io
import json
from itertools import islice
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from wdl.system.files import write_text

Summary = dict[str, Any]
_COLUMNS = ("model", "benchmark", "metric", "value", "low", "high", "problems", "samples")
_SHOWN_ANSWERS = 5


def rows(summary: Summary) -> list[dict[str, Any]]:
    """One row for each metric of each model on each benchmark; interval ends where there is one."""
    table = []
    for model, benchmarks in summary["models"].items():
        for benchmark, record in benchmarks.items():
            found = record["results"]
            base = {"model": model, "benchmark": benchmark}
            base |= {key: found[key] for key in ("problems", "samples")}
            estimates = {"accuracy": {"value": found["accuracy"], "interval": found["interval"]}}
            estimates |= {name: value for name, value in found.items() if isinstance(value, dict)}
            for metric, estimate in estimates.items():
                low, high = estimate["interval"]
                row = {"metric": metric, "value": estimate["value"], "low": low, "high": high}
                table.append(base | row)
            for metric in ("cut_off_rate", "new_tokens"):
                table.append(base | {"metric": metric, "value": found[metric]})
    return table


def write_csv(summary: Summary, path: Path) -> None:
    """All metrics as a table."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(summary))
    write_text(path, text.getvalue())


def scalars(summary: Summary) -> dict[str, float]:
    """All metrics by ``evaluation/BENCHMARK/METRIC/MODEL``."""
    return {
        f"evaluation/{row['benchmark']}/{row['metric']}/{row['model']}": row["value"]
        for row in rows(summary)
    }


def write_tensorboard(summary: Summary, out: Path, writer: SummaryWriter, step: int) -> None:
    """Scalars of all metrics, and the first answers of each model, in ``out``, as text."""
    for tag, value in scalars(summary).items():
        writer.add_scalar(tag, value, step)
    for model, benchmarks in summary["models"].items():
        for benchmark in benchmarks:
            with (out / model / f"{benchmark}.jsonl").open(encoding="utf-8") as lines:
                shown = [json.loads(line) for line in islice(lines, _SHOWN_ANSWERS)]
            text = "\n\n---\n\n".join(_as_text(answer) for answer in shown)
            writer.add_text(f"evaluation/{benchmark}/{model}", text, step)


def _as_text(answer: dict[str, Any]) -> str:
    """An answer in the Markdown that TensorBoard shows."""
    completion = "\n".join(f"    {line}" for line in answer["completion"].splitlines())
    return (
        f"**{answer['question']}**\n\n{completion}\n\n"
        f"{answer['status']}: {answer['answer']} (reference {answer['reference']})"
    )
