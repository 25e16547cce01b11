"""Pictures of results as SVG, which for the same results are the same byte for byte."""

import io
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from wdl.evaluation.views import rows
from wdl.system.files import write_text

COLOUR = "#1b6ca8"


def write_accuracies(summary: dict[str, Any], path: Path) -> None:
    """The accuracies of a ``summary.json`` with their intervals at 95 % as SVG."""
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
    _save(figure, path)


def write_comparison(compared: list[dict[str, Any]], path: Path) -> None:
    """Differences to the first model as SVG: a row per benchmark, a colour per model."""
    results = [
        result["benchmarks"] | {key: result[key] for key in ("overall", "macro") if key in result}
        for result in compared
    ]
    names = list(dict.fromkeys(name for of_model in results for name in of_model))
    height = 1.5 + 0.3 * len(names) * len(results)
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    for number, (result, of_model) in enumerate(zip(compared, results, strict=True)):
        middle = [100 * row["difference"] for row in of_model.values()]
        reach = [
            [abs(100 * (row["interval"][side] - row["difference"])) for row in of_model.values()]
            for side in (0, 1)
        ]
        shift = (number - (len(results) - 1) / 2) / (len(results) + 1)
        places = [names.index(name) + shift for name in of_model]
        axes.errorbar(middle, places, xerr=reach, fmt="o", capsize=3, label=result["b"])
    axes.axvline(0, color="0.2", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel=f"accuracy minus that of {compared[0]['a']} in points, 95 % intervals")
    figure.legend(loc="outside upper left")
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "wdl", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    write_text(path, text.getvalue())
