"""``wdl fit`` and ``wdl validate``: LightningCLI with this project's module, data and callbacks."""

import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from transformers.utils.logging import disable_progress_bar

from wdl.callbacks.checkpoints import Checkpoints
from wdl.callbacks.dynamics import DynamicsCharts
from wdl.callbacks.evaluation import Evaluation
from wdl.callbacks.export import StrongExport
from wdl.callbacks.screen import ValidationTable
from wdl.callbacks.stopping import StopOnSignal
from wdl.config.parser import PlainParser
from wdl.data.weak_driven import WeakDrivenDataModule
from wdl.errors import UserError
from wdl.system.files import point_to
from wdl.system.processes import rank
from wdl.training.checkpoints import check_checkpoint, newest_checkpoint
from wdl.training.deepspeed import DeepSpeed
from wdl.training.weak_driven import WeakDrivenModule


class Parser(PlainParser, LightningArgumentParser):
    """Lightning's parser with this project's messages."""


class RunFolder(SaveConfigCallback):
    """Saves the configuration in the run's folder and in its events, points ``latest`` to it."""

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Only a fit has a folder of its own."""
        if stage == "fit":
            self.config = self.config.clone()
            self.config.ckpt_path = None  # to repeat the run is not to go on with it
            super().setup(trainer, pl_module, stage)
            assert isinstance(trainer.logger, TensorBoardLogger)
            trainer.logger.hparams = self._settings()  # or Lightning writes an empty hparams.yaml

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Not before: a run that cannot go on from its checkpoint is none."""
        self._point_to_it(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Where nothing was left to train."""
        self._point_to_it(trainer)

    def _point_to_it(self, trainer: Trainer) -> None:
        if trainer.is_global_zero:
            assert isinstance(trainer.logger, TensorBoardLogger)  # trainer.log_dir waits for all
            folder = Path(trainer.logger.log_dir)
            point_to(folder.parent / "latest", folder)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the hyperparameters with what they led to, for TensorBoard's table of runs."""
        assert isinstance(trainer.logger, TensorBoardLogger)
        metrics = {
            f"final/{name.removeprefix('val/')}": value.item()
            for name, value in trainer.logged_metrics.items()
            if name.startswith("val/") and name.endswith("loss")
        }
        trainer.logger.log_hyperparams(self._settings(), metrics, step=trainer.global_step)

    def _settings(self) -> dict[str, Any]:
        settings = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        return {
            **{key: settings[key] for key in ("model", "data")},
            "trainer": {key: settings["trainer"][key] for key in ("max_epochs", "precision")},
            "seed": settings["seed_everything"],
        }


CKPT_PATH = {
    "fit": "Checkpoint to go on from: a path, or last for the newest complete one of all versions "
    "of the run, if there is one.",
    "validate": "Checkpoint to validate: a path, or last for the newest complete one of the run; "
    "null for the models as they are.",
}


class WeakDrivenCLI(LightningCLI):
    """Arguments and links of a weak-driven run."""

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
        parser.add_lightning_class_args(WeakDrivenModule, "model")
        parser.add_lightning_class_args(WeakDrivenDataModule, "data")
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
        parser.link_arguments("model.strong", "data.strong")
        parser.link_arguments("model.weak", "data.weak")

    def _parse_ckpt_path(self) -> None:
        """Nothing: checkpoints hold no hyperparameters, and none is opened before it is checked."""

    def before_instantiate_classes(self) -> None:
        """Find the checkpoint that is asked for, and look at it before it is opened."""
        config = self.config[self.subcommand]
        if config.ckpt_path == "last":
            runs = Path(config.runs, config.name)
            newest = newest_checkpoint(runs)
            if newest is None and self.subcommand != "fit":
                raise UserError(f"ckpt_path: {runs} holds no checkpoint; leave --ckpt_path out")
            if self.subcommand == "fit" and rank() == 0:
                _remove_partial(runs)
            if newest is None:  # so that a requeued job has one command, for its first start too
                rank_zero_info(f"{runs} holds no checkpoint: starting from the beginning")
            config.ckpt_path = None if newest is None else str(newest)
        elif config.ckpt_path is None and self.subcommand == "validate":
            rank_zero_info("no --ckpt_path: validating the models as they are")
        if config.ckpt_path is not None:
            check_checkpoint(Path(config.ckpt_path))

    def after_instantiate_classes(self) -> None:
        """Look at all input before a model is loaded."""
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
        checkpoint = self.config[self.subcommand].ckpt_path
        if self.subcommand == "fit" and checkpoint is not None:
            if isinstance(strategy, DeepSpeed):
                strategy.check_resumable(Path(checkpoint))
            elif Path(checkpoint).is_dir():
                raise UserError(
                    f"{checkpoint}: DeepSpeed wrote this checkpoint; go on with trainer.strategy "
                    "wdl.training.deepspeed.DeepSpeed"
                )
        self.datamodule.check_inputs(self.model.pretrained)
        if self.subcommand == "fit":
            self.datamodule.accumulation(self.trainer.world_size)
        evaluation = self._get(self.config_init, "evaluation")
        evaluation.check_inputs(self.model.sources["strong"])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer that logs a fit to its folder, and nothing else anywhere."""
        runs, name = (self._get(self.config, key) for key in ("runs", "name"))
        logger: TensorBoardLogger | bool = False
        if self.subcommand == "fit":
            logger = TensorBoardLogger(runs, name=name, default_hp_metric=False)
        # where Lightning looks for what SLURM interrupted; not among what lies in this folder
        root = str(Path(runs, name))
        return super().instantiate_trainer(logger=logger, default_root_dir=root, **kwargs)


def run(args: list[str]) -> None:
    """Parse ``args`` (verb first) and run the verb."""
    _quieten()
    try:
        WeakDrivenCLI(
            WeakDrivenModule,
            WeakDrivenDataModule,
            save_config_callback=RunFolder,
            trainer_defaults={"callbacks": [DynamicsCharts(), ValidationTable(), StopOnSignal()]},
            seed_everything_default=42,
            parser_kwargs={"prog": "wdl"}
            | {
                verb: {"usage": f"wdl {verb} --config FILE [--config FILE ...] [options]"}
                for verb in WeakDrivenCLI.subcommands()
            },
            parser_class=Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=args,
        )
    except MisconfigurationException as error:
        raise UserError(f"trainer: {error}") from error


def parse(args: list[str]) -> Any:
    """The configuration that ``args`` (verb first) stand for; nothing is run."""

    class Configuration(WeakDrivenCLI):
        """Parses, and leaves it at that."""

        def _set_seed(self) -> None: ...
        def before_instantiate_classes(self) -> None: ...
        def instantiate_classes(self) -> None: ...
        def after_instantiate_classes(self) -> None: ...
        def _run_subcommand(self, subcommand: str) -> None: ...

    cli = Configuration(
        WeakDrivenModule,
        WeakDrivenDataModule,
        parser_kwargs={"prog": "wdl"},
        parser_class=Parser,
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
        args=args,
    )
    return cli.config[args[0]]


def _remove_partial(runs: Path) -> None:
    """What a killed run was writing, which may be large."""
    for partial in (*runs.glob("version_*/.*.partial"), *runs.glob("version_*/*/.*.partial")):
        shutil.rmtree(partial, ignore_errors=True)


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
    disable_progress_bar()  # of loading and saving weights; it would break into the trainer's
