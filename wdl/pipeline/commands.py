"""``wdl pipeline`` and ``wdl pipeline status``: what their options mean.

wdl pipeline --config configs/pipeline.yaml
wdl pipeline status --config configs/pipeline.yaml
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

from wdl.config.paths import InputPath
from wdl.pipeline.ask import ask
from wdl.pipeline.checks import print_checks
from wdl.pipeline.plan import Pipeline, turns
from wdl.pipeline.report_figure import write_figure
from wdl.pipeline.runner import LOCK, run_steps
from wdl.pipeline.status import print_status
from wdl.system.files import refuse_unwritable

Stages = list[dict[str, Any]]


def run_pipeline(
    here: InputPath,
    stages: Stages,
    root: str = "runs/pipeline",
    step: bool = False,
    dry_run: bool = False,
) -> None:
    """Run the stages that are not done yet.

    A stage that is done is skipped; one that was killed goes on from its last checkpoint; one
    whose inputs changed runs again, and so do all after it.

    Args:
        here: What {here} in a command stands for; ``.`` in a YAML is that YAML's folder.
        stages: What to run, in order; each has a name, a command and perhaps retries and a
            launcher, or is a group of stages with rounds. See configs/pipeline.yaml.
        root: Folder of the pipeline; each stage gets a folder in it, with its log.txt.
        step: Ask before each round and after a failure whether to go on; answers are read from
            the standard input, and its end means quit.
        dry_run: Say what would become of each stage and why, and run none.
    """
    folder = Path(os.path.abspath(root))
    refuse_unwritable(folder / LOCK, "--root")
    pipeline = Pipeline(stages, Path(here), folder)
    pipeline.check()
    if dry_run:
        _print_turns(pipeline, folder)
        return
    show_status = partial(print_status, pipeline, folder)
    try:
        run_steps(pipeline, folder, ask=partial(ask, show_status=show_status) if step else None)
    finally:
        write_figure(folder)


def show_status(
    here: InputPath, stages: Stages, root: str = "runs/pipeline", full: bool = False
) -> None:
    """Print what has become of each stage.

    Args:
        here: As in wdl pipeline.
        stages: As in wdl pipeline.
        root: As in wdl pipeline.
        full: Also parse all commands, and look for the models, data, hub names and addresses in
            them, and for free space; say what would run next.
    """
    folder = Path(os.path.abspath(root))
    pipeline = Pipeline(stages, Path(here), folder)
    print_status(pipeline, folder)
    if full:
        print_checks(pipeline, folder)


def _print_turns(pipeline: Pipeline, folder: Path) -> None:
    """What would become of each stage, as lines; nothing is written."""
    for turn in turns(pipeline, folder):
        does, why = turn.decision
        print(f"{turn.title}: {does}: {why}")
        if does == "run":
            print(f"    {turn.step.shown(turn.step.words)}")
