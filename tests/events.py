"""What TensorBoard makes of a folder of runs."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer


def runs_seen(runs: Path) -> set[str]:
    """Names of all runs under ``tensorboard --logdir RUNS``, by its own walk, which follows links.

    A run that is reached by two names is there twice.
    """
    return set(EventMultiplexer().AddRunsFromDirectory(str(runs)).Runs())


def read_events(folder: Path) -> EventAccumulator:
    """Everything in a folder's own event files, complete."""
    events = EventAccumulator(str(folder), {"scalars": 0, "tensors": 0, "histograms": 0})
    events.Reload()
    return events
