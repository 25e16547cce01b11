"""Base of the data modules: from a file of rows to the micro-batches of every rank.

    rows → tokens + completion mask → split → draw → plan → loaders

A method is a subclass that says, in ``draw``, which of the training samples an epoch goes through.
The draw and the plan are the same on every rank and depend on the seed alone, so that a run can be
repeated, resumed, and shared out among any number of processes.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from wdl.branches.sources import check_source
from wdl.branches.vision import ImageLimits
from wdl.config.paths import DataSource, ModelSource
from wdl.data.batches import Batch
from wdl.data.corpus import Corpus, column
from wdl.data.loading import RankShare, Work, batch_loader, work_of
from wdl.data.packing import pack
from wdl.data.plan import MicroBatch, Plan, accumulation
from wdl.data.records import OnBadRow, TooLong
from wdl.data.selection import Summary
from wdl.errors import UserError
from wdl.system.files import refuse_unwritable
from wdl.system.types import Dataset, PreTrainedTokenizerBase


class PlannedDataModule(pl.LightningDataModule, ABC):
    """Base of the data modules.

    Twelve arguments: each is a key of a run's configuration.

    Args:
        path: Instruction data: a .json, .jsonl, .jsonl.zst or .parquet file, a folder of them, or
            a data set of the hub (organisation/name, organisation/name:part).
        strong: The branch that is made stronger. Its tokenizer encodes the data.
        batch_size: Samples of an optimizer step, over all processes.
        micro_batch_size: Samples of one forward pass of one process. The number of accumulated
            micro-batches follows from both sizes and the number of processes.
        max_length: Longest sample in tokens.
        too_long: What becomes of longer samples: left out, or cut at the end (then without the
            end-of-turn token, so that the model does not learn to stop half-way).
        system_prompt: Text of a system message before each conversation that has none; paper for
            the paper's.
        on_bad_row: Whether a faulty row stops the run or is left out with a warning.
        max_tokens: Pack samples into forward passes of up to this many tokens, instead of padding
            them. None of them sees another. batch_size then counts packs, and micro_batch_size
            is 1.
        val_fraction: Share of the samples that is kept for validation. A sample's prompt decides,
            so the same prompt never stands on both sides.
        cache: Folder for encoded data and scores; runs with the same inputs share them. By default
            RUNS/cache.
        images: Sizes that a vision-language model reads pictures in.
    """

    summary: Summary
    unit = "sample"
    batch_type: type = Batch

    def __init__(
        self,
        path: DataSource,
        strong: ModelSource,
        batch_size: int = 256,
        micro_batch_size: int = 1,
        max_length: int = 4096,
        too_long: TooLong = "drop",
        system_prompt: str | None = None,
        on_bad_row: OnBadRow = "error",
        max_tokens: int | None = None,
        val_fraction: float = 0.02,
        cache: str | None = None,
        images: ImageLimits = ImageLimits(),  # noqa: B008 (frozen)
    ) -> None:
        super().__init__()
        if not 0 <= val_fraction < 1:
            raise UserError(f"data.val_fraction: {val_fraction} must lie in [0, 1)")
        if min(batch_size, micro_batch_size, max_length) < 1:
            raise UserError("data: batch_size, micro_batch_size and max_length must be at least 1")
        if batch_size % micro_batch_size:
            raise UserError(
                f"data.batch_size: {batch_size} is not a multiple of data.micro_batch_size "
                f"({micro_batch_size}); change one of them"
            )
        if max_tokens is not None and (micro_batch_size != 1 or max_tokens < max_length):
            raise UserError(
                f"data.max_tokens: a forward pass is one pack and holds any sample; set "
                f"data.micro_batch_size to 1 (it is {micro_batch_size}) and data.max_tokens to at "
                f"least data.max_length ({max_length})"
            )
        self.path = path
        self.branches = {"strong": strong}
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.max_tokens = max_tokens
        self.packed = max_tokens is not None
        self.val_fraction = val_fraction
        self.cache = Path(cache or "runs/cache")
        self.corpus = Corpus(
            path, strong, self.cache, system_prompt, max_length, too_long, on_bad_row, images
        )
        self.plan: Plan | None = None

    @abstractmethod
    def draw(self, lengths: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Which of ``train_samples`` an epoch goes through.

        Args:
            lengths: [samples] tokens of each.

        Returns:
            [draws] positions, duplicates allowed; [samples] probabilities that they were drawn
            with, float64, which sum to 1.
        """

    def counts(self, samples: Dataset) -> NDArray[np.int64]:
        """What each sample counts for in the denominator of its step: its completion tokens."""
        return _lengths(samples) - column(samples, "prompt_length")

    def work(self, samples: Sequence[int]) -> Work:
        """What training on some of ``train_samples`` amounts to."""
        return work_of(self.train_samples, samples)

    def collate(self, rows: list[Any], denominator: int) -> Batch:
        """The batch of a micro-batch."""
        return self.put_together(rows, [row["idx"] for row in rows], denominator)

    def put_together(self, samples: list[Any], idx: list[int], denominator: int) -> Batch:
        """``samples``, padded or packed, in a batch that goes by the names ``idx``."""
        return self.corpus.collate(samples, idx, denominator, self.packed)

    def summarise(self, probabilities: NDArray[np.float64], plan: Plan) -> Summary:
        """What an epoch holds."""
        return Summary.of(probabilities, plan.drawn, plan.lengths, plan.steps)

    def settings(self) -> dict[str, Any]:
        """What the method adds to the record of the data that a model was made from."""
        return {}

    def control(self) -> list[str]:
        """Options of ``wdl fit`` with which a run is the control of this one: as many tokens."""
        return []

    def accumulation(self, world_size: int) -> int:
        """Micro-batches that each process accumulates, see :func:`wdl.data.plan.accumulation`."""
        return accumulation(self.batch_size, self.micro_batch_size, world_size)

    def check_inputs(self, pretrained: bool = True) -> None:
        """Read the rows and look at the branches, so that faults show before any model is loaded.

        Args:
            pretrained: Whether the strong branch's weights are wanted.

        Raises:
            UserError: Everything that is wrong with the input.
        """
        for name, source in self.branches.items():
            check_source(source, f"model.{name}", pretrained or name == "weak")
        refuse_unwritable(self.cache / "encoded", "data.cache")
        _ = self.corpus.records, self.corpus.end_token

    def check_reader(self, batch_type: type) -> None:
        """Refuse a method that reads other batches than these.

        Args:
            batch_type: What its loss is computed from.

        Raises:
            UserError: It is another.
        """
        if batch_type is not self.batch_type:
            raise UserError(
                f"data.class_path: {type(self).__name__} makes a {self.batch_type.__name__}, but "
                f"what model.class_path trains on is a {batch_type.__name__}; change one of them"
            )

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The strong branch's, which encodes the data."""
        return self.corpus.tokenizer

    def prepare_data(self) -> None:
        """Encode once per machine; every process then reads the cached result."""
        _ = self.corpus.samples

    def setup(self, stage: str) -> None:
        """Encode, split, and for training also draw and plan."""
        samples = self.corpus.samples
        self.held_out = column(samples, "prompt_hash") < self.val_fraction
        self.train_samples = samples.select(np.flatnonzero(~self.held_out))
        self.val_samples = samples.select(np.flatnonzero(self.held_out))
        if self.val_fraction and not len(self.val_samples):
            rank_zero_warn(
                f"none of the {len(samples)} {self.unit}s falls to validation; raise "
                f"data.val_fraction ({self.val_fraction}) for validation metrics"
            )
        if stage == "fit":
            if not len(self.train_samples):
                raise UserError(
                    f"{self.path}: no {self.unit} is left to train on; see data.max_length "
                    f"and data.val_fraction ({self.val_fraction})"
                )
            self._make_plan()

    def _make_plan(self) -> None:
        assert self.trainer is not None
        lengths = _lengths(self.train_samples)
        drawn, probabilities = self.draw(lengths)
        self.plan = Plan(
            drawn,
            lengths,
            self.counts(self.train_samples),
            self.batch_size,
            self.micro_batch_size,
            self.seed,
            self.max_tokens,
        )
        # Lightning and DeepSpeed both read this, after setup
        accumulation = self.plan.accumulation(self.trainer.world_size)
        self.trainer.accumulate_grad_batches = accumulation
        self._log_often_enough()
        if dry := int(self.trainer.fast_dev_run):  # type: ignore[attr-defined]
            self.trainer.limit_train_batches = dry * accumulation  # as many whole optimizer steps
        self.summary = self.summarise(probabilities, self.plan)
        rank_zero_info(f"selected {self.summary}")
        self.log_once(asdict(self.summary))

    @property
    def planned_steps(self) -> int:
        """Optimizer steps of the fit, if nothing ends it early."""
        assert self.trainer is not None and self.plan is not None
        epochs, most = self.trainer.max_epochs, self.trainer.max_steps
        limits = [self.plan.steps * (epochs or 0)] if epochs != -1 else []
        return min([*limits, *([most] if most != -1 else [])])

    def _log_often_enough(self) -> None:
        """Where a whole run is shorter than the interval of its logs, there would be none."""
        assert self.trainer is not None
        trainer: Any = self.trainer  # whose attributes are not all declared
        steps = self.planned_steps
        if steps < (asked := trainer.log_every_n_steps):
            trainer.log_every_n_steps = max(1, steps // 10)
            rank_zero_info(
                f"logging every {trainer.log_every_n_steps} of {steps} optimizer steps, since "
                f"trainer.log_every_n_steps ({asked}) are more than there are"
            )

    def made(self) -> dict[str, Any]:
        """What a fit trains on, for checkpoints and the model card."""
        return {
            "path": str(self.path),
            "sha256": self.corpus.digest,
            **self.settings(),
            **asdict(self.summary),
        }

    def agreement(self) -> dict[str, Any]:
        """What a run that goes on must agree in, see :class:`wdl.training.resume.Agreement`."""
        plan = None if self.plan is None else self.plan.digest
        return {"data": self.corpus.digest, "plan": plan, "path": str(self.path)}

    def log_once(self, values: dict[str, float]) -> None:
        """Log what is known of the selection before training starts, as ``selection/NAME``."""
        assert self.trainer is not None
        named = {f"selection/{name}": value for name, value in values.items()}
        for logger in self.trainer.loggers:
            logger.log_metrics(named, step=0)

    @property
    def seed(self) -> int:
        """Of the draw and the order."""
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    def train_dataloader(self) -> DataLoader:
        """This rank's micro-batches, from the optimizer step that the trainer stands at."""
        assert self.plan is not None and self.trainer is not None
        trainer = self.trainer
        share = RankShare(
            self.plan, trainer.global_rank, trainer.world_size, lambda: trainer.global_step
        )
        return batch_loader(self.train_samples, share, self.collate)

    def val_dataloader(self) -> DataLoader | list:
        """Every sample of the validation share once, over all ranks."""
        if not len(self.val_samples):
            return []
        assert self.trainer is not None
        lengths, counts = _lengths(self.val_samples), self.counts(self.val_samples)
        batches = [MicroBatch(part, int(counts[part].sum())) for part in self._val_parts(lengths)]
        batches += [MicroBatch([], 0)] * (-len(batches) % self.trainer.world_size)
        share = batches[self.trainer.global_rank :: self.trainer.world_size]
        return batch_loader(self.val_samples, share, self.collate)

    def _val_parts(self, lengths: NDArray[np.int64]) -> list[list[int]]:
        """Which validation samples share a forward pass."""
        if self.max_tokens is not None:
            return pack(lengths, self.max_tokens)
        order = np.argsort(-lengths, kind="stable")
        size = self.micro_batch_size
        return [order[first : first + size].tolist() for first in range(0, len(order), size)]


def _lengths(samples: Dataset) -> NDArray[np.int64]:
    """Tokens of each sample."""
    return column(samples, "length").astype(np.int64)
