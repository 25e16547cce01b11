"""A picture of the selection: entropies before and after, their change, and the weights."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

BINS = 60
POINTS = 5_000
TOP_PERCENTILE = 99.5
WEAK, STRONG = "#d95f02", "#1b6ca8"


def selection_figure(history: NDArray[np.float64], probabilities: NDArray[np.float64]) -> Figure:
    """Three panels: both distributions, ΔH before and after weighting, weights over both.

    Args:
        history: [rounds, samples] entropies, nats; the last two rounds are weak and strong.
        probabilities: [samples] what samples are drawn with.
    """
    weak, strong = history[-2:]
    figure = Figure(figsize=(13, 4), layout="constrained")
    entropies, change, weights = figure.subplots(1, 3)

    top = float(np.percentile(history[-2:], TOP_PERCENTILE)) or 1.0
    bins = np.linspace(0, top, BINS)
    for name, values, colour in (("weak", weak, WEAK), ("strong", strong, STRONG)):
        label = f"{name}, mean {values.mean():.3f}"
        entropies.hist(values, bins, label=label, color=colour, alpha=0.6)
    entropies.set(xlabel="entropy H, nats per token", ylabel="samples")
    entropies.legend()

    delta = strong - weak
    reach = float(np.percentile(np.abs(delta), TOP_PERCENTILE)) or 1.0
    bins = np.linspace(-reach, reach, BINS)
    uniform = np.full(len(delta), 1 / len(delta))
    for name, share, colour in (("data", uniform, "0.6"), ("drawn", probabilities, STRONG)):
        change.hist(delta, bins, weights=share, label=name, color=colour, alpha=0.6)
    change.axvline(0, color="0.2", linewidth=0.8)
    change.set(xlabel="ΔH = H_strong − H_weak", ylabel="share of samples")
    change.legend()

    shown = slice(None, None, -(-len(delta) // POINTS))
    relative = np.log10((probabilities[shown] * len(delta)).clip(min=1e-3))
    points = weights.scatter(weak[shown], strong[shown], c=relative, s=6, cmap="viridis")
    weights.plot([0, top], [0, top], color="0.2", linewidth=0.8)
    weights.set(xlabel="H_weak", ylabel="H_strong", xlim=(0, top), ylim=(0, top))
    figure.colorbar(points, ax=weights, label="log10 of weight / uniform")
    return figure
