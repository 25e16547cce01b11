"""``wdl fit`` and ``wdl validate``: LightningCLI with this project's methods, data and callbacks.

``model.class_path`` and ``data.class_path`` choose the method; weak-driven learning is the default,
whose options can be given without naming it: ``--model.strong X``.
"""

import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities import rank_zero_info

from wdl.callbacks.checkpoints import Checkpoints
from wdl.callbacks.dynamics import BranchLogger, DynamicsHistograms
from wdl.callbacks.evaluation import Evaluation
from wdl.callbacks.export import StrongExport
from wdl.callbacks.saved_config import SavedConfig
from wdl.callbacks.screen import ValidationTable
from wdl.callbacks.stopping import StopOnSignal
from wdl.config.parser import PlainParser
from wdl.data.planned import PlannedDataModule
from wdl.data.weak_driven import WeakDrivenDataModule
from wdl.errors import UserError
from wdl.system.processes import rank
from wdl.training.checkpoints import check_checkpoint
from wdl.training.deepspeed import DeepSpeed
from wdl.training.pair import Pair
from wdl.training.resume import check_strategy
from wdl.training.run_folder import newest_checkpoint, remove_partial
from wdl.training.weak_driven import WeakDrivenModule

DEFAULTS: dict[str, type] = {"model": WeakDrivenModule, "data": WeakDrivenDataModule}
"""Classes that a configuration means which names none."""

CKPT_PATH = {
    "fit": "Checkpoint to go on from: a path, or last for the newest complete one of all versions "
    "of the run, if there is one.",
    "validate": "Checkpoint to validate: a path, or last for the newest complete one of the run; "
    "null for the models as they are.",
}


class Parser(PlainParser, LightningArgumentParser):
    """Lightning's parser with this project's messages, and the options of the default classes."""

    def known_keys(self) -> set[str]:
        """Those of the default classes too."""
        of_classes = (options.known_keys() for options in _default_options())
        return super().known_keys().union(*of_classes)

    def format_help(self, formatter: Any = None) -> str:
        """The help, with the options of the default classes spelt out."""
        text = super().format_help(formatter)
        if "  --data CONFIG" not in text:
            return text
        end = text.index("\n\n", text.index("  --data CONFIG")) + 1
        spelt_out = "".join(
            options.format_help().partition("\n\n")[2] for options in _default_options()
        )
        return f"{text[:end]}\n{spelt_out}{text[end:]}"


def _default_options() -> Iterator[PlainParser]:
    """Parsers of the options of the default classes."""
    for key, default in DEFAULTS.items():
        options = PlainParser(usage="-", add_help=False)
        options.add_class_arguments(default, key, fail_untyped=False, sub_configs=True)
        yield options


class FitCLI(LightningCLI):
    """Arguments and links of a run."""

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
        for branch in ("strong", "weak"):
            parser.link_arguments(f"model.init_args.{branch}", f"data.init_args.{branch}")

    def _parse_ckpt_path(self) -> None:
        """Nothing: checkpoints hold no hyperparameters, and none is opened before it is checked."""

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint that is asked for, and look at it before it is opened."""
        config = self.config[self.subcommand]
        if config.ckpt_path == "last":
            run = Path(config.runs, config.name)
            newest = newest_checkpoint(run)
            if newest is None and self.subcommand != "fit":
                raise UserError(f"ckpt_path: {run} holds no checkpoint; leave --ckpt_path out")
            if self.subcommand == "fit" and rank() == 0:
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
        except ValueError as error:
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, UserError):
                cause = cause.__cause__ or cause.__context__
            raise cause or error from None

    def after_instantiate_classes(self) -> None:
        """Look at all input before a model is loaded."""
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # of loading and saving weights; it would break into the trainer's
        self._check_trainer()
        checkpoint = self.config[self.subcommand].ckpt_path
        if self.subcommand == "fit" and checkpoint is not None:
            strategy = self.trainer.strategy
            stage = strategy.zero_stage if isinstance(strategy, DeepSpeed) else None
            check_strategy(Path(checkpoint), stage, self.trainer.world_size)
        self.datamodule.check_inputs(self.model.pretrained)
        if self.subcommand == "fit":
            self.datamodule.accumulation(self.trainer.world_size)
        evaluation = self._get(self.config_init, "evaluation")
        evaluation.check_inputs(self.model.sources["strong"])

    def _check_trainer(self) -> None:
        """Refuse what the trainer would do otherwise than the user means."""
        if self.trainer.accumulate_grad_batches != 1:
            raise UserError(
                "trainer.accumulate_grad_batches: it follows from data.batch_size, "
                "data.micro_batch_size and the number of processes; leave it out"
            )
        strategy = self.trainer.strategy
        if self.model.weak_dtype and isinstance(strategy, DeepSpeed) and strategy.zero_stage_3:
            raise UserError(
                "model.weak_dtype: ZeRO stage 3 shards all weights in one dtype; use stage 1 or 2, "
                "or leave weak_dtype out"
            )
        precision = str(self.trainer.precision)
        if precision.startswith("16") and not torch.cuda.is_available():
            raise UserError(f"trainer.precision: {precision} needs a GPU; use bf16-true or 32-true")
        if isinstance(strategy, ParallelStrategy) and strategy.cluster_environment is not None:
            try:  # what torchrun or SLURM started, before anything is loaded
                strategy.cluster_environment.validate_settings(
                    self.trainer.num_devices, self.trainer.num_nodes
                )
            except ValueError as error:
                raise UserError(f"trainer.devices, trainer.num_nodes: {error}") from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer that logs a fit to its folder, and nothing else anywhere."""
        runs, name = (self._get(self.config, key) for key in ("runs", "name"))
        logger = BranchLogger(runs, name) if self.subcommand == "fit" else False
        # where Lightning looks for what SLURM interrupted; not among what lies in this folder
        root = str(Path(runs, name))
        return super().instantiate_trainer(logger=logger, default_root_dir=root, **kwargs)


class _ParseOnly(FitCLI):
    """Parses, and leaves it at that."""

    def _set_seed(self) -> None: ...
    def before_instantiate_classes(self) -> None: ...
    def instantiate_classes(self) -> None: ...
    def after_instantiate_classes(self) -> None: ...
    def _run_subcommand(self, subcommand: str) -> None: ...


def run(args: list[str]) -> None:
    """Parse ``args`` (verb first) and run the verb."""
    _quieten()
    try:
        _start(FitCLI, args)
    except MisconfigurationException as error:
        raise UserError(f"trainer: {error}") from error


def parse(args: list[str]) -> Any:
    """The configuration that ``args`` (verb first) stand for; nothing is run."""
    _quieten()
    return _start(_ParseOnly, args).config[args[0]]


def _start(cli: type[FitCLI], args: list[str]) -> FitCLI:
    usage = "wdl {} --config FILE [--config FILE ...] [options]".format
    return cli(
        Pair,
        PlannedDataModule,
        save_config_callback=SavedConfig,
        trainer_defaults={"callbacks": [DynamicsHistograms(), ValidationTable(), StopOnSignal()]},
        seed_everything_default=42,
        parser_kwargs={"prog": "wdl"}
        | {verb: {"usage": usage(verb)} for verb in cli.subcommands()},
        parser_class=Parser,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=args,
    )


def _quieten() -> None:
    """Drop what libraries say that is settled by design or nothing a user could act on."""
    for message in (
        ".*does not have many workers.*",  # encoded samples are read from memory maps
        ".*`IterableDataset` has `__len__` defined.*",  # there are no loading workers
        ".*dataloader is not resumable.*",  # the plan resumes by the count of optimizer steps
        ".*LightningCLI's args parameter.*",
        ".*LeafSpec.* is deprecated.*",
        ".*`torch.distributed.* is deprecated.*",
        ".*dirpath has changed.*",  # each start has a folder of its own
        ".*sync_dist=True.*",  # what is logged has been summed over all processes
    ):
        warnings.filterwarnings("ignore", message)
    # checkpoints are checked before they are opened
    settled = ("litlogger", "`weights_only` was not set", "to estimate number of stepping batches")
    for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logging.getLogger(f"lightning.pytorch.{name}").addFilter(
            lambda record: not any(text in record.getMessage() for text in settled)
        )
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it had to guess
