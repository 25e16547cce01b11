"""Grades what a fit began with and what came out of it, beside plain SFT on as many tokens.

Everything runs in processes of its own: a crash costs its row and not the run, and an accelerator
gets back the memory.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from wdl.data.module import WeakDrivenDataModule
from wdl.evaluation.apart import EvaluationFailed, evaluate_apart
from wdl.evaluation.views import write_tensorboard
from wdl.files import write_json
from wdl.models.module import WeakDrivenModule
from wdl.paths import InputPath
from wdl.processes import environment_without_ranks

CONTROL = "sft_control"


class FinalEvaluation(Callback):
    """Writes ``results.json`` and ``evaluation/`` to the run's folder when a fit ends.

    Graded are ``weak``, ``strong_before``, ``strong_after`` and ``sft_control``: plain SFT (no
    weak branch, uniform weights) from the same start on the same number of tokens, without which
    no gain of the first three means anything.

    Args:
        benchmark: What is graded, as in ``wdl evaluate --benchmarks``; null grades nothing.
        data: The benchmark's problems.
        protocol: How answers are generated, as in ``wdl evaluate --protocol``.
        sft_control: Train the control too, which costs about half of a joint run. With several
            nodes make it a run of its own.
    """

    def __init__(
        self,
        benchmark: str | None = None,
        data: InputPath | None = None,
        protocol: str = "quick",
        sft_control: bool = False,
    ) -> None:
        self.benchmark = benchmark
        self.data = data
        self.protocol = protocol
        self.sft_control = sft_control

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """On one process, after the strategy has given back its memory."""
        if trainer.interrupted or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, WeakDrivenModule)
        assert isinstance(trainer.logger, TensorBoardLogger)  # trainer.log_dir would wait for all
        run = Path(trainer.logger.log_dir)
        data: WeakDrivenDataModule = trainer.datamodule  # type: ignore[attr-defined]
        epochs = trainer.global_step / data.summary.steps
        results: dict[str, Any] = {
            "steps": trainer.global_step,
            "tokens": {"strong_after": round(data.summary.tokens * epochs)},
            "validation": {name: float(v) for name, v in trainer.logged_metrics.items()},
        }
        models = _starting_points(pl_module) | {"strong_after": str(run / "strong")}
        if self.sft_control:
            control = train_control(run, data.summary.tokens)
            if control is not None:
                models[CONTROL] = str(control / "strong")
                trained = json.loads((control / "results.json").read_text())
                results["tokens"][CONTROL] = trained["tokens"]["strong_after"]
        if self.benchmark is not None:
            out = run / "evaluation"
            results |= self._grade(models, out, trainer.logger, trainer.global_step)
        write_json(run / "results.json", results)
        rank_zero_info(f"results: {run / 'results.json'}")

    def _grade(
        self, models: dict[str, str], out: Path, logger: TensorBoardLogger, step: int
    ) -> dict[str, Any]:
        """Exact match of each model, by ``wdl evaluate``."""
        options = ["--benchmarks", str(self.benchmark), "--protocol", self.protocol]
        if self.data is not None:
            options += ["--data", str(self.data)]
        try:
            summary = evaluate_apart(models, out, options)
        except EvaluationFailed as failure:
            rank_zero_warn(f"the evaluation failed ({failure}), see above; the run is complete")
            return {}
        write_tensorboard(summary, out, logger.experiment, step)
        results = {
            label: graded[self.benchmark]["results"] for label, graded in summary["models"].items()
        }
        return {
            "exact_match": {label: result["accuracy"] for label, result in results.items()},
            "interval_95": {label: result["interval"] for label, result in results.items()},
            "problems": next(iter(results.values()))["problems"],
            "benchmark": self.benchmark,
            "protocol": self.protocol,
        }


def _starting_points(module: WeakDrivenModule) -> dict[str, str]:
    """The branches as they were before the fit."""
    starts = {"weak": module.sources["weak"]} if "weak" in module.sources else {}
    if module.pretrained:
        starts["strong_before"] = module.sources["strong"]
    return {name: str(source) for name, source in starts.items()}


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
    if subprocess.run(command, env=environment_without_ranks()).returncode:
        rank_zero_warn("the control failed, see above; the run itself is complete")
        return None
    return (run / CONTROL / "latest").resolve()
