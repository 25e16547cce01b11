"""Views of a ``summary.json``: a CSV table, a plot with intervals, TensorBoard scalars and text."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from wdl.system.files import write_text

Summary = dict[str, Any]
_COLUMNS = ("model", "benchmark", "metric", "value", "low", "high", "problems", "samples")
_SHOWN_ANSWERS = 5
COLOUR = "#1b6ca8"


def rows(summary: Summary) -> list[dict[str, Any]]:
    """One row for each metric of each model on each benchmark; interval ends where there is one."""
    table = []
    for model, benchmarks in summary["models"].items():
        for benchmark, record in benchmarks.items():
            found = record["results"]
            base = {"model": model, "benchmark": benchmark}
            base |= {key: found[key] for key in ("problems", "samples")}
            low, high = found["interval"]
            table.append(
                base | {"metric": "accuracy", "value": found["accuracy"], "low": low, "high": high}
            )
            for metric, value in found.items():
                if isinstance(value, dict):
                    low, high = value["interval"]
                    row = {"metric": metric, "value": value["value"], "low": low, "high": high}
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


def write_plot(summary: Summary, path: Path) -> None:
    """Accuracies with their intervals at 95 % as an SVG picture, the same byte for byte."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    bars = [row for row in rows(summary) if row["metric"] == "accuracy"]
    names = [f"{row['model']} · {row['benchmark']}   {row['value']:.1%}" for row in bars]
    figure = Figure(figsize=(8, 1 + 0.3 * len(bars)), layout="constrained")
    axes = figure.subplots()
    for place, row in enumerate(bars):
        axes.plot([row["low"], row["high"]], [place, place], color=COLOUR)
        axes.plot(row["value"], place, "o", color=COLOUR)
    axes.set(xlim=(0, 1), ylim=(len(bars) - 0.5, -0.5))
    axes.set_yticks(range(len(bars)), names, parse_math=False)
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="x", color="0.9")
    protocol = summary["protocol"]
    axes.set_title(f"accuracy, 95 % intervals, protocol {protocol['name']} v{protocol['version']}")
    picture = io.StringIO()
    with rc_context({"svg.hashsalt": "wdl", "svg.fonttype": "none"}):
        figure.savefig(picture, format="svg", metadata={"Date": None})
    write_text(path, picture.getvalue())


def write_tensorboard(summary: Summary, out: Path, writer: SummaryWriter, step: int) -> None:
    """Scalars of all metrics, and the first answers of each model as text.

    Args:
        summary: What to show.
        out: Folder of the evaluation, where the answers are.
        writer: Of the run that the models belong to.
        step: The global step that they were exported at.
    """
    for row in rows(summary):
        tag = f"evaluation/{row['benchmark']}/{row['metric']}/{row['model']}"
        writer.add_scalar(tag, row["value"], step)
    for model, benchmarks in summary["models"].items():
        for benchmark in benchmarks:
            with (out / model / f"{benchmark}.jsonl").open(encoding="utf-8") as lines:
                shown = [
                    json.loads(line) for _, line in zip(range(_SHOWN_ANSWERS), lines, strict=False)
                ]
            text = "\n\n---\n\n".join(_as_text(answer) for answer in shown)
            writer.add_text(f"evaluation/{benchmark}/{model}", text, step)


def _as_text(answer: dict[str, Any]) -> str:
    """An answer in the Markdown that TensorBoard shows."""
    completion = "\n".join(f"    {line}" for line in answer["completion"].splitlines())
    return (
        f"**{answer['question']}**\n\n{completion}\n\n"
        f"{answer['status']}: {answer['answer']} (reference {answer['reference']})"
    )
