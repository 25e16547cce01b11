"""``report.svg``: amounts and metrics by round, a small panel each."""

import io
import json
import math
from pathlib import Path

from wdl.pipeline.report import FIGURE
from wdl.system.files import write_text

COLUMNS = 4
COLOUR = "#1b6ca8"


def write_figure(root: Path) -> None:
    """Draw what ``report.json`` says is drawn, if there is anything."""
    file = root / "report.json"
    groups = json.loads(file.read_text()).get("groups", []) if file.is_file() else []
    drawn = [(name, group["values"][name]) for group in groups for name in group["drawn"]]
    if not drawn:
        (root / FIGURE).unlink(missing_ok=True)
        return
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    rows = -(-len(drawn) // COLUMNS)
    figure = Figure(figsize=(3 * COLUMNS, 2.2 * rows), layout="constrained")
    places = figure.subplots(rows, COLUMNS, squeeze=False).flat
    for (name, values), axes in zip(drawn, places, strict=False):
        known = [math.nan if value is None else value for value in values]
        axes.plot(range(1, len(values) + 1), known, "o-", color=COLOUR)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(name, fontsize=9, parse_math=False)
        axes.grid(color="0.9")
    for axes in list(places):
        axes.set_axis_off()
    figure.supxlabel("round")
    text = io.StringIO()
    with rc_context({"svg.hashsalt": "wdl", "svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    write_text(root / FIGURE, text.getvalue())
