"""A picture of a comparison: differences of accuracy with their intervals."""

import io
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from wdl.system.files import write_text


def write_figure(compared: list[dict[str, Any]], path: Path) -> None:
    """Differences to the first model as SVG: a row per benchmark, a colour per model."""
    rows = [
        result["benchmarks"] | {key: result[key] for key in ("overall", "macro") if key in result}
        for result in compared
    ]
    names = list(dict.fromkeys(name for of_model in rows for name in of_model))
    height = 1.5 + 0.3 * len(names) * len(rows)
    figure = Figure(figsize=(8, height), layout="constrained")
    axes = figure.subplots()
    for number, (result, of_model) in enumerate(zip(compared, rows, strict=True)):
        middle = [100 * row["difference"] for row in of_model.values()]
        ends = [[100 * end for end in row["interval"]] for row in of_model.values()]
        reach = [
            [abs(x - pair[side]) for x, pair in zip(middle, ends, strict=True)] for side in (0, 1)
        ]
        shift = (number - (len(rows) - 1) / 2) / (len(rows) + 1)
        places = [names.index(name) + shift for name in of_model]
        axes.errorbar(middle, places, xerr=reach, fmt="o", capsize=3, label=result["b"])
    axes.axvline(0, color="0.2", linewidth=0.8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlabel=f"accuracy minus that of {compared[0]['a']} in points, 95 % intervals")
    figure.legend(loc="outside upper left")
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "wdl"}):  # the same picture, the same file
        figure.savefig(text, format="svg", metadata={"Date": None})
    write_text(path, text.getvalue())
