"""Grades branches on benchmarks: while a fit goes on, when it has ended, and on ``wdl validate``.

Everything runs in processes of its own: a crash costs its numbers and not the run, and host and
accelerator get back the memory.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from safetensors import SafetensorError
from wdl.callbacks.control import CONTROL, starting_points, train_control
from wdl.callbacks.early import early_end
from wdl.callbacks.export import export_strong
from wdl.callbacks.stopping import StopOnSignal
from wdl.callbacks.throughput import Throughput

from wdl.config.parser import check_syntax
from wdl.config.paths import InputPath, ModelSource
from wdl.data.planned import PlannedDataModule
from wdl.errors import UserError
from wdl.evaluation.apart import EvaluationFailed, evaluate_apart
from wdl.evaluation.code import prepare_code
from wdl.evaluation.jobs import prepare
from wdl.evaluation.sources import Sources, load_data
from wdl.evaluation.views import scalars, write_tensorboard
from wdl.generation.engine import TRANSFORMERS, EngineName
from wdl.generation.protocols import find_protocol
from wdl.generation.vllm_options import VllmOptions
from wdl.metrics.dynamics import DYNAMICS
from wdl.questions.benchmarks import find_benchmarks
from wdl.system.files import write_json
from wdl.system.outcome import leave_outcome
from wdl.system.sandbox import SandboxOptions
from wdl.training.export import write_strong
from wdl.training.pair import Pair
from wdl.training.run_folder import RunFolder

Summary = dict[str, Any]


class Evaluation(Callback):
    """Writes ``evaluation/`` and ``results.json`` to the run's folder.

    When a fit ends, ``weak``, ``strong_before``, ``strong_after`` and ``sft_control`` are graded:
    plain SFT (no weak branch, uniform weights, of pairs the chosen answers) from the same start on
    the same number of tokens, without which no gain of the first three means anything. Where a fit
    ended early, the control's one epoch holds the tokens that it had, under a whole schedule.

    ``wdl validate`` grades the strong branch of its checkpoint, and writes beside that to
    ``CHECKPOINT.evaluation/``. Without a checkpoint nothing is graded unless ``out`` is given; then
    it is the model that a fit would begin with.

    Args:
        benchmark: What is graded, as in ``wdl evaluate --benchmarks``; null grades nothing.
        data: The benchmark's problems, as in ``wdl evaluate --data``.
        protocol: How answers are generated, as in ``wdl evaluate --protocol``.
        cache: File of answers that runs share, as in ``wdl evaluate --cache``.
        engine: What generates, as in ``wdl evaluate --engine``.
        vllm: Where vLLM is and what it may use. While a fit goes on, the model that trains stays
            on the accelerators: ``gpu_memory_utilization`` must fit beside it.
        every_n_validations: Also grade the strong branch after every n-th validation of a fit,
            which waits for it, to ``evaluation/step=N/``.
        limit: Seconds after which an evaluation is given up; null for none.
        out: Where ``wdl validate`` writes instead.
        sft_control: Train the control too, which costs about half of a joint run. With several
            nodes make it a run of its own.
        sandbox: How programs that models write are run, as in ``wdl evaluate --sandbox``.
        control_config: A YAML laid over the control's configuration, where plain SFT wants other
            settings than the method, such as a learning rate.
    """

    def __init__(
        self,
        benchmark: str | None = None,
        data: Sources | None = None,
        protocol: str = "quick",
        engine: EngineName = TRANSFORMERS,
        vllm: VllmOptions = VllmOptions(),  # noqa: B008 (frozen)
        every_n_validations: int | None = None,
        limit: float | None = 14400.0,
        out: str | None = None,
        sft_control: bool = False,
        control_config: InputPath | None = None,
        cache: InputPath | None = None,
        sandbox: SandboxOptions = SandboxOptions(),  # noqa: B008 (frozen)
    ) -> None:
        if every_n_validations is not None and every_n_validations < 1:
            raise UserError(
                f"evaluation.every_n_validations: {every_n_validations} must be at least 1, or null"
            )
        self.benchmark = benchmark
        self.data = data
        self.protocol = protocol
        self.engine = engine
        self.vllm = vllm
        self.every_n_validations = every_n_validations
        self.limit = limit
        self.out = out
        self.sft_control = sft_control
        self.control_config = None if control_config is None else Path(control_config)
        self.cache = cache
        self.sandbox = sandbox
        self._validations = 0
        self._last: dict[str, Any] = {"step": 0, "metrics": {}}

    def check_inputs(self, strong: ModelSource) -> None:
        """Look at all that an evaluation needs, so that faults show before any model is loaded.

        Args:
            strong: The branch that will be graded.

        Raises:
            UserError: Benchmark, data, protocol or engine cannot be used, or the protocol's
                answers do not fit the branch's context.
        """
        overlay = self.control_config
        if overlay is not None:
            if not overlay.is_file():
                raise UserError(f"evaluation.control_config: there is no {overlay}; check its path")
            check_syntax([overlay])
        if self.benchmark is None:
            return
        from wdl.generation.engines import find_engine  # imports transformers

        try:
            protocol = find_protocol(self.protocol)
            sets = load_data(find_benchmarks(self.benchmark), self.data, protocol.shots)
            engine = find_engine(self.engine, self.vllm)(strong)
            prepare("model.strong", engine, sets, protocol)
            prepare_code(sets, self.sandbox)
        except UserError as error:
            faults = [f"evaluation: {fault}" for fault in error.faults]
            raise UserError(*faults, total=error.total) from error

    def state_dict(self) -> dict[str, Any]:
        """How many validations there were, and what the last one found."""
        return {"validations": self._validations, "last": self._last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What :meth:`state_dict` returned."""
        self._validations = state_dict["validations"]
        self._last = state_dict["last"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Of a fit: grade the strong branch as it is now, if it is time to."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._validations += 1
        self._last = {"step": trainer.global_step, "metrics": _validation(trainer.logged_metrics)}
        every = self.every_n_validations
        if self.benchmark is None or every is None or self._validations % every:
            return
        assert isinstance(pl_module, Pair)
        self._grade_now(trainer, pl_module)

    def _grade_now(self, trainer: pl.Trainer, module: Pair) -> None:
        """Every process takes part in the export; the others wait for the grades."""
        step = trainer.global_step
        out = RunFolder.of(trainer).evaluation_at(step)
        model = out / "model"
        torch.cuda.empty_cache()  # what no tensor uses is room for the engine
        try:
            export_strong(trainer, module, model)
            if trainer.is_global_zero:
                _log(self._grade({"strong": model}, out, trainer), out, trainer)
        except (EvaluationFailed, OSError, SafetensorError) as failure:  # a full disk, too
            rank_zero_warn(f"evaluation at step {step} failed: {failure}; training goes on")
        finally:
            if trainer.is_global_zero:
                shutil.rmtree(model, ignore_errors=True)
        trainer.strategy.barrier("evaluated")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """On one process, after the strategy has given back its memory."""
        if trainer.interrupted or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Pair)
        if early := early_end(trainer):
            rank_zero_info("stopped early, at step {step} of {planned}: {reason}".format(**early))
        run = RunFolder.of_first(trainer)
        data: PlannedDataModule = trainer.datamodule  # type: ignore[attr-defined]
        epochs = trainer.global_step / data.summary.steps
        tokens = {"strong_after": round(data.summary.tokens * epochs)}
        scores: dict[str, Any] = {}
        models = starting_points(pl_module) | {"strong_after": run.strong}
        if self.sft_control:
            options = [*pl_module.control(), *data.control()]
            control = train_control(run, options, self.control_config)
            if control is not None:
                models[CONTROL] = control.strong
                trained = json.loads(control.results.read_text())
                tokens[CONTROL] = trained["tokens"]["strong_after"]
        if self.benchmark is not None:
            out = run.evaluation
            try:
                summary = self._grade(models, out, trainer)
                _log(summary, out, trainer)
                scores = self._scores(summary)
            except EvaluationFailed as failure:
                rank_zero_warn(f"the final evaluation failed: {failure}; the run is complete")
        found = self._final_metrics(trainer)
        dynamics = {n.removeprefix(DYNAMICS): v for n, v in found.items() if DYNAMICS in n}
        losses = {name: value for name, value in found.items() if DYNAMICS not in name}
        results = scores | {"steps": trainer.global_step, "tokens": tokens}
        for one in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(one, Throughput) and one.totals:
                results["throughput"] = one.totals
        if early:
            results["stopped_early"] = early
        results |= {"data_sha256": data.corpus.digest, "validation": losses, "dynamics": dynamics}
        write_json(run.results, results)
        leave_results(run)
        rank_zero_info(f"results: {run.results}")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Of ``wdl validate``: grade when the metrics are on the screen and memory is free.

        Raises:
            UserError: It failed.
        """
        if stage != "validate" or self.benchmark is None or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, Pair)
        checkpoint = trainer.ckpt_path
        if checkpoint is None and self.out is None:
            rank_zero_info(
                "nothing is graded: give --ckpt_path, or --evaluation.out to grade model.strong"
            )
            return
        strong: str | Path = pl_module.sources["strong"]
        out = Path(self.out or Path(str(checkpoint)).with_suffix(".evaluation"))
        model = out / "model"
        try:
            if checkpoint is not None:
                shutil.rmtree(model, ignore_errors=True)  # of one that was killed
                write_strong(Path(checkpoint), model, str(strong))
                strong = model
            self._grade({"strong": strong}, out, trainer)
        except EvaluationFailed as failure:
            raise UserError(
                f"evaluation: {failure}, see above; the same command goes on from there, another "
                "--evaluation.out begins anew"
            ) from None
        finally:
            shutil.rmtree(model, ignore_errors=True)

    def _grade(self, models: Mapping[str, str | Path], out: Path, trainer: pl.Trainer) -> Summary:
        """What ``wdl evaluate`` finds, which prints it as a table.

        Raises:
            EvaluationFailed: It found nothing.
        """
        options = ["--benchmarks", str(self.benchmark), "--protocol", self.protocol]
        options += ["--engine", self.engine]
        for name, value in {"data": self.data, "cache": self.cache}.items():
            if value is not None:
                options += [f"--{name}", str(value)]
        parts = {"sandbox": self.sandbox} | ({"vllm": self.vllm} if self.engine == "vllm" else {})
        options += [
            f"--{part}.{key}={value}"
            for part, settings in parts.items()
            for key, value in asdict(settings).items()
            if value is not None
        ]
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        stopping = [one for one in callbacks if isinstance(one, StopOnSignal)]
        summary = evaluate_apart(
            models, out, options, self.limit, lambda: any(one.heard for one in stopping)
        )
        failures = summary.get("failures", {})
        if not summary["models"]:
            raise EvaluationFailed("; ".join(sorted(set(failures.values()))))
        for label, failure in failures.items():
            rank_zero_warn(f"the evaluation of {label} failed: {failure}")
        return summary

    def _final_metrics(self, trainer: pl.Trainer) -> dict[str, float]:
        """Those of the last step; where nothing was left to train, from the checkpoint."""
        if trainer.logged_metrics:
            return _validation(trainer.logged_metrics)
        return self._last["metrics"] if self._last["step"] == trainer.global_step else {}

    def _scores(self, summary: Summary) -> dict[str, Any]:
        """Accuracies by model; of several benchmarks, by ``BENCHMARK/MODEL``."""
        found = {
            (benchmark, label): record["results"]
            for label, benchmarks in summary["models"].items()
            for benchmark, record in benchmarks.items()
        }
        problems = {benchmark: result["problems"] for (benchmark, _), result in found.items()}
        several = len(problems) > 1
        named = {f"{b}/{label}" if several else label: r for (b, label), r in found.items()}
        return {
            "exact_match": {name: result["accuracy"] for name, result in named.items()},
            "interval_95": {name: result["interval"] for name, result in named.items()},
            "problems": sum(problems.values()),
            "benchmark": self.benchmark,
            "protocol": self.protocol,
        }


def leave_results(run: RunFolder) -> None:
    """For whoever started the fit: its amounts and metrics, see :mod:`wdl.system.outcome`."""
    results = json.loads(run.results.read_text())
    graded = {f"exact_match/{k}": v for k, v in results.get("exact_match", {}).items()}
    amounts = {"tokens": results["tokens"]["strong_after"], "steps": results["steps"]}
    leave_outcome(amounts, results["validation"] | graded)


def _validation(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if name.startswith("val/")}


def _log(summary: Summary, out: Path, trainer: pl.Trainer) -> None:
    """Grades for every logger; TensorBoard's shows some of the answers in ``out``, too."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            write_tensorboard(summary, out, logger.experiment, trainer.global_step)
        else:
            logger.log_metrics(scalars(summary), trainer.global_step)
