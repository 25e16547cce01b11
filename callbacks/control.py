"""What a run is compared with: where it began, and its control.

The control is the same run from the same start, without what the method adds.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from wdl.callbacks.early import without_early_end

from wdl.system.processes import environment_of_child
from wdl.training.pair import Pair
from wdl.training.run_folder import RunFolder

CONTROL = "sft_control"


def train_control(
    run: RunFolder, options: Sequence[str], overlay: Path | None = None
) -> RunFolder | None:
    """A run within ``run``'s folder, with its settings but for ``options``; None if it failed.

    Args:
        run: The run that has ended.
        options: What makes another its control.
        overlay: A YAML laid over the configuration before them.
    """
    rank_zero_info(f"training the control: {' '.join(options)}")
    flags = [
        *("--config", str(run.config)),
        *(() if overlay is None else ("--config", str(overlay))),
        *("--runs", str(run.path), "--name", CONTROL, "--ckpt_path", "null"),
        *without_early_end(run.config),
        *options,
        *("--evaluation.benchmark", "null", "--evaluation.sft_control", "false"),
    ]
    command = [sys.executable, "-m", "wdl", "fit", *flags]
    if subprocess.run(command, env=environment_of_child()).returncode:
        rank_zero_warn("the control failed, see above; the run itself is complete")
        return None
    return RunFolder.latest(run.path, CONTROL)


def starting_points(module: Pair) -> dict[str, str | Path]:
    """The branches as they were before the fit, each once."""
    starts: dict[str, str | Path] = {}
    weak, strong = module.sources.get("weak"), module.sources["strong"]
    if weak is not None and weak != strong:
        starts["weak"] = str(weak)
    if module.pretrained:
        starts["strong_before"] = str(strong)
    return starts
