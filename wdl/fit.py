"""``wdl fit`` and ``wdl validate``: LightningCLI with this project's methods, data and callbacks.

``model.class_path`` and ``data.class_path`` choose the method; weak-driven learning is the default,
whose options can be given without naming it: ``--model.strong X``.
"""

import re
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_info

from wdl.callbacks.checkpoints import Checkpoints
from wdl.callbacks.dynamics import BranchLogger, DynamicsHistograms, NoEvents
from wdl.callbacks.early import StayStopped
from wdl.callbacks.evaluation import Evaluation, leave_results
from wdl.callbacks.export import StrongExport
from wdl.callbacks.samples import PictureSamples
from wdl.callbacks.saved_config import SavedConfig
from wdl.callbacks.screen import BranchSummary, EndOfProgress, ValidationTable
from wdl.callbacks.stopping import StopOnSignal
from wdl.callbacks.throughput import Throughput
from wdl.data.planned import PlannedDataModule
from wdl.errors import UserError
from wdl.system.files import refuse_unwritable
from wdl.system.noise import quieten
from wdl.system.processes import rank
from wdl.training.checkpoints import check_checkpoint
from wdl.training.deepspeed import DeepSpeed
from wdl.training.loggers import check_apart, placed, start
from wdl.training.pair import Pair
from wdl.training.parser import DEFAULTS, Parser
from wdl.training.resume import check_strategy
from wdl.training.run_folder import newest_checkpoint, newest_start, remove_partial
from wdl.training.trainer_options import (
    check_layers,
    check_options,
    check_trainer,
    check_weak_dtype,
)

_FOUND_LATE = ("`val_check_interval`", "Early stopping conditioned on metric")
"""What Lightning says of options that only show to be wrong when the data are there."""

CKPT_PATH = {
    "fit": "Checkpoint to go on from: a path, or last for the newest complete one of all versions "
    "of the run, if there is one.",
    "validate": "Checkpoint to validate: a path, or last for the newest complete one of the run; "
    "null for the models as they are.",
}


class FitCLI(LightningCLI):
    """Arguments and links of a run.

    Attributes:
        verbs: What each of Lightning's subcommands is called, and what it does.
    """

    verbs: ClassVar = {
        "fit": ("fit", "Trains the strong branch of a pair, exports it and grades it."),
        "validate": (
            "validate",
            "Validation metrics of a checkpoint, or of the models as they are.",
        ),
    }

    _fault: UserError | None = None
    """What refuses a logger."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's verbs that mean something here, and the arguments that others fill in."""
        loaders = {"model", "datamodule", "train_dataloaders", "val_dataloaders", "dataloaders"}
        return {"fit": loaders, "validate": {*loaders, "verbose"}}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> Any:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        (ckpt_path,) = (action for action in parser._actions if action.dest == "ckpt_path")
        ckpt_path.help = CKPT_PATH[subcommand]
        return parser

    def validate(self, **kwargs: Any) -> None:
        """Lightning's, whose list of all metrics ``ValidationTable`` replaces."""
        self.trainer.validate(verbose=False, **kwargs)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Model and data first: what people look for in the help."""
        parser.add_lightning_class_args(Pair, "model", subclass_mode=True)
        parser.add_lightning_class_args(PlannedDataModule, "data", subclass_mode=True)
        names = {key: f"{cls.__module__}.{cls.__name__}" for key, cls in DEFAULTS.items()}
        parser.set_defaults({key: {"class_path": name} for key, name in names.items()})
        parser.add_lightning_class_args(StrongExport, "export")  # before what evaluates it
        parser.add_lightning_class_args(Evaluation, "evaluation")
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(Trainer, "trainer")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What a run has beside trainer, model and data."""
        parser.add_argument("--name", type=str, default="wdl", help="Name of the run.")
        parser.add_argument(
            "--runs",
            type=str,
            default="runs",
            help="Folder of all runs; this one writes to RUNS/NAME/version_N.",
        )
        parser.add_argument(
            "--tensorboard",
            type=bool,
            default=True,
            help="Whether a fit writes events for TensorBoard, beside what trainer.logger writes.",
        )
        for branch in ("strong", "weak"):
            parser.link_arguments(f"model.init_args.{branch}", f"data.init_args.{branch}")
        # of data that know of none, this is no option, and the link is idle
        stored = ("model.stored_reference", "data.init_args.reference")
        parser.link_arguments(*stored, apply_on="instantiate")

    def _parse_ckpt_path(self) -> None:
        """Nothing: checkpoints hold no hyperparameters, and none is opened before it is checked."""

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint that is asked for, and look at it before it is opened."""
        self.parser.add_instantiator(self._make_logger, Logger, subclasses=True)
        config = self.config[self.subcommand]
        fitting = self.subcommand == "fit"
        check_options(config.trainer, fitting)
        if fitting and not config.trainer.fast_dev_run:  # which leaves nothing behind
            refuse_unwritable(Path(config.runs, config.name, "version_0"), "--runs")
        if config.data.init_args.get("cache", "given") is None:
            config.data.init_args.cache = str(Path(config.runs, "cache"))
        self._goes_on = config.ckpt_path == "last"
        if self._goes_on:
            run = Path(config.runs, config.name)
            newest = newest_checkpoint(run)
            if newest is None and not fitting:
                raise UserError(f"ckpt_path: {run} holds no checkpoint; leave --ckpt_path out")
            if fitting and rank() == 0:
                remove_partial(run)
            if newest is None:  # so that a requeued job has one command, for its first start too
                rank_zero_info(f"{run} holds no checkpoint: starting from the beginning")
            config.ckpt_path = None if newest is None else str(newest)
        elif config.ckpt_path is None and self.subcommand == "validate":
            rank_zero_info("no --ckpt_path: validating the models as they are")
        if config.ckpt_path is not None:
            check_checkpoint(Path(config.ckpt_path))

    def instantiate_classes(self) -> None:
        """As Lightning does; what a class refuses is one line, whatever is wrapped around it."""
        try:
            super().instantiate_classes()
        except (ValueError, TypeError, RuntimeError, OSError, ImportError) as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, UserError):
                cause = cause.__cause__ or cause.__context__
            raise self._fault or cause or UserError(_refusal(error)) from None

    def after_instantiate_classes(self) -> None:
        """Look at all input before a model is loaded."""
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # of loading and saving weights; it would break into the trainer's
        fitting = self.subcommand == "fit"
        check_trainer(self.trainer, fitting, self.datamodule.val_fraction > 0)
        if self.model.weak_dtype:
            check_weak_dtype(self.trainer.strategy)
        model, lora = self.model, self.model.lora
        quantised = lora is not None and lora.quantised
        check_layers(self.trainer.strategy, model.compile_backend is not None, quantised)
        checkpoint = self.config[self.subcommand].ckpt_path
        if fitting and checkpoint is not None:
            strategy = self.trainer.strategy
            stage = strategy.zero_stage if isinstance(strategy, DeepSpeed) else None
            check_strategy(Path(checkpoint), stage, self.trainer.world_size)
        self.datamodule.check_reader(self.model.batch_type)
        self.datamodule.check_inputs(self.model.pretrained)
        if fitting:
            self.datamodule.accumulation(self.trainer.world_size)
        evaluation = self._get(self.config_init, "evaluation")
        evaluation.check_inputs(self.model.sources["strong"])
        if fitting and self._goes_on:
            self._stop_if_done()
        if fitting and not self.config.fit.trainer.fast_dev_run:  # which leaves nothing behind
            start(self.trainer.loggers[1:])

    def _make_logger(self, made: type[Logger], **options: Any) -> Logger:
        runs, name = (self._get(self.config, key) for key in ("runs", "name"))
        fitting = self.subcommand == "fit"
        folder = Path(self._run_logger.log_dir) if fitting else Path(runs, name, "validate")
        try:
            return made(**placed(made, options, folder))
        except (ValueError, TypeError, RuntimeError, OSError, ImportError) as error:
            # kept, since jsonargparse goes on to try other types, and says what these want
            self._fault = UserError(f"trainer.logger: {made.__name__}: {error}")
            raise
        except UserError as error:
            self._fault = error
            raise

    @cached_property
    def _run_logger(self) -> BranchLogger:
        """What decides on the folder of a fit."""
        runs, name = (self._get(self.config, key) for key in ("runs", "name"))
        return (BranchLogger if self._get(self.config, "tensorboard") else NoEvents)(runs, name)

    def _stop_if_done(self) -> None:
        """A run that has come to its end, with these options and data, does not begin again."""
        config = self.config.fit.clone()
        config.ckpt_path = None  # as it is saved
        run = newest_start(Path(config.runs, config.name))
        asked = self._parser("fit").dump(config, skip_none=False)
        if run is None or not run.is_done(asked, self.datamodule.corpus.digest):
            return
        if rank() == 0:
            leave_results(run)
            rank_zero_info(
                f"{run.path}: trained already, with these options and data; nothing is left to do "
                "(without --ckpt_path it is trained anew)"
            )
        raise SystemExit(0)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer that logs a fit to its folder, and wherever else a user wants."""
        runs, name = (self._get(self.config, key) for key in ("runs", "name"))
        given = self._get(self.config_init, "trainer").logger
        loggers = list(given) if isinstance(given, Iterable) else [given]
        loggers = [logger for logger in loggers if not isinstance(logger, bool | None)]
        if self.subcommand == "fit":
            loggers.insert(0, self._run_logger)
        check_apart(loggers)
        # where Lightning looks for what SLURM interrupted; not among what lies in this folder
        root = str(Path(runs, name))
        return super().instantiate_trainer(logger=loggers, default_root_dir=root, **kwargs)

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        # in a file a bar is rows of broken ones; the summary knows no branches, and counts no FLOPs
        summary = config["enable_model_summary"]
        shown = {"enable_progress_bar": sys.stdout.isatty(), "enable_model_summary": False}
        config |= {name: show for name, show in shown.items() if config[name] is None}
        if config["fast_dev_run"]:  # which leaves nothing behind
            callbacks = []
        elif config["enable_checkpointing"] is False:
            callbacks = [one for one in callbacks if not isinstance(one, Checkpoints)]
        summary = [] if summary is False else [BranchSummary()]
        callbacks = [EndOfProgress(), *summary, *callbacks]
        return super()._instantiate_trainer(config, callbacks)


class _ParseOnly(FitCLI):
    """Parses, and leaves it at that."""

    def _set_seed(self) -> None: ...
    def before_instantiate_classes(self) -> None: ...
    def instantiate_classes(self) -> None: ...
    def after_instantiate_classes(self) -> None: ...
    def _run_subcommand(self, subcommand: str) -> None: ...


def run(args: list[str], cli: type[FitCLI] = FitCLI) -> None:
    """Parse ``args`` (verb first) and run the verb."""
    quieten()
    Parser.whole = args[1:] in (["--help", "all"], ["-h", "all"])
    try:
        _start(cli, args)
    except MisconfigurationException as error:
        raise UserError(f"trainer: {error}") from error
    except (ValueError, RuntimeError) as error:
        if not str(error).strip().startswith(_FOUND_LATE):
            raise
        raise UserError(f"trainer: {' '.join(str(error).split())}") from error


def _refusal(error: Exception) -> str:
    """What a class said that could not be made, without what jsonargparse says of other types."""
    text = str(error)
    name = re.search(r"Given value:.*?class_path='([\w.]+)'", text, re.DOTALL)
    said = re.search(r"Errors:\s+- (.*)", text) or re.search(r"(.*)", text)
    return f"{name[1] if name else 'trainer'}: {said[1] if said else text}"


def parse(args: list[str]) -> Any:
    """The configuration that ``args`` (verb first) stand for; nothing is run."""
    quieten()
    return _start(_ParseOnly, args).config[args[0]]


def _start(cli: type[FitCLI], args: list[str]) -> FitCLI:
    usage = "wdl {} --config FILE [--config FILE ...] [options]".format
    return cli(
        Pair,
        PlannedDataModule,
        save_config_callback=SavedConfig,
        trainer_defaults={
            "callbacks": [
                *(DynamicsHistograms(), PictureSamples(), ValidationTable()),
                *(Throughput(), StopOnSignal(), StayStopped()),
            ],
        },
        seed_everything_default=42,
        parser_kwargs={"prog": "wdl"}
        | {key: {"usage": usage(v), "description": about} for key, (v, about) in cli.verbs.items()},
        parser_class=Parser,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=args,
    )
