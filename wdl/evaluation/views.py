"""Views of a ``summary.json``: a CSV table, a plot with intervals, TensorBoard scalars and text."""

import csv
import io
import json
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from torch.utils.tensorboard import SummaryWriter

from wdl.system.files import write_text

Summary = dict[str, Any]
_COLUMNS = ("model", "benchmark", "metric", "value", "low", "high", "problems", "samples")
_ROW, _LEFT, _WIDTH = 22, 260, 400  # of the plot, in pixels
_SHOWN_ANSWERS = 5


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
    """Accuracies with their intervals at 95 % as an SVG picture."""
    bars = [row for row in rows(summary) if row["metric"] == "accuracy"]
    marks = [_mark(number, row) for number, row in enumerate(bars, start=1)]
    height = _ROW * (len(bars) + 2)
    grid = [
        f'<line x1="{_x(share)}" y1="{_ROW}" x2="{_x(share)}" y2="{height - _ROW}" '
        f'stroke="#ddd"/><text x="{_x(share)}" y="{height - 6}" text-anchor="middle">'
        f"{share:.0%}</text>"
        for share in (0, 0.25, 0.5, 0.75, 1)
    ]
    protocol = summary["protocol"]
    title = f"accuracy, 95 % intervals, protocol {protocol['name']} v{protocol['version']}"
    write_text(
        path,
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 70}" '
        f'height="{height}" font-family="sans-serif" font-size="12">\n'
        '<rect width="100%" height="100%" fill="white"/>\n'
        f'<text x="6" y="14">{escape(title)}</text>\n' + "\n".join(grid + marks) + "\n</svg>\n",
    )


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


def _x(share: float) -> float:
    return _LEFT + share * _WIDTH


def _mark(number: int, row: dict[str, Any]) -> str:
    """A row of the plot: name, interval, accuracy."""
    y = _ROW * number + _ROW / 2
    name = escape(f"{row['model']} · {row['benchmark']}")
    return (
        f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{name}</text>'
        f'<line x1="{_x(row["low"]):.1f}" y1="{y}" x2="{_x(row["high"]):.1f}" y2="{y}" '
        f'stroke="#246" stroke-width="2"/>'
        f'<circle cx="{_x(row["value"]):.1f}" cy="{y}" r="4" fill="#246"/>'
        f'<text x="{_x(1) + 10}" y="{y + 4}">{row["value"]:.1%}</text>'
    )


def _as_text(answer: dict[str, Any]) -> str:
    """An answer in the Markdown that TensorBoard shows."""
    completion = "\n".join(f"    {line}" for line in answer["completion"].splitlines())
    return (
        f"**{answer['question']}**\n\n{completion}\n\n"
        f"{answer['status']}: {answer['answer']} (reference {answer['reference']})"
    )
