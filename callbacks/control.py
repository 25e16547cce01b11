"""Trains the control of a joint run: plain SFT from the same start on as many tokens."""

import subprocess
import sys
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from wdl.system.processes import environment_of_child

CONTROL = "sft_control"


def train_control(run: Path, tokens: int) -> Path | None:
    """Plain SFT with the settings of ``run``, on ``tokens`` tokens an epoch; its run folder."""
    rank_zero_info(f"training the control: plain SFT on {tokens} tokens an epoch")
    flags = [
        *("--config", str(run / "config.yaml")),
        *("--runs", str(run), "--name", CONTROL, "--ckpt_path", "null"),
        *("--model.weak", "null", "--model.lam", "1"),
        *("--data.selection.weights", "uniform"),
        *("--data.selection.draw", "without_replacement", "--data.selection.tokens", str(tokens)),
        *("--evaluation.benchmark", "null", "--evaluation.sft_control", "false"),
    ]
    command = [sys.executable, "-m", "wdl", "fit", *flags]
    if subprocess.run(command, env=environment_of_child()).returncode:
        rank_zero_warn("the control failed, see above; the run itself is complete")
        return None
    return (run / CONTROL / "latest").resolve()
