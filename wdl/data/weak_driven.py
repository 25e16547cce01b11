"""The data module: from a file of instruction data to the micro-batches of every rank.

    records → tokens + completion mask → entropies (weak, strong) → weights → draw → plan

Without a weak branch nothing is scored and the weights are uniform, which is plain SFT.
"""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from datasets import Dataset
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from wdl.branches.loading import check_same_vocabulary, check_source, load_branch
from wdl.config.paths import DataSource, ModelSource
from wdl.data.corpus import Corpus, TooLong, column
from wdl.data.entropy_table import EntropyTable
from wdl.data.loading import RankShare, batch_loader
from wdl.data.packing import pack
from wdl.data.plan import MicroBatch, Plan, accumulation
from wdl.data.records import OnBadRow
from wdl.data.score_store import EntropyStore
from wdl.data.selection import Selection, Summary
from wdl.data.selection_figure import selection_figure
from wdl.data.weights import sampling_weights
from wdl.errors import UserError
from wdl.system.digests import model_digest, value_digest

PUBLISHED_SELECTION = Selection()


class WeakDrivenDataModule(pl.LightningDataModule):
    """Scores, weights and draws instruction data for a weak/strong pair.

    Args:
        path: Instruction data: a .json, .jsonl, .jsonl.zst or .parquet file, a folder of them, or
            a data set of the hub (organisation/name, organisation/name:part).
        strong: The branch that is made stronger. Its tokenizer encodes the data.
        weak: The earlier branch, or null.
        selection: How samples are weighted and drawn.
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
        cache: Folder for encoded data and entropies; runs with the same inputs share them.
    """

    def __init__(
        self,
        path: DataSource,
        strong: ModelSource,
        weak: ModelSource | None = None,
        selection: Selection = PUBLISHED_SELECTION,
        batch_size: int = 256,
        micro_batch_size: int = 1,
        max_length: int = 4096,
        too_long: TooLong = "drop",
        system_prompt: str | None = None,
        on_bad_row: OnBadRow = "error",
        max_tokens: int | None = None,
        val_fraction: float = 0.02,
        cache: str = "runs/cache",
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
        if weak is None and selection.weights != "uniform" and selection.entropies is None:
            raise UserError(
                f"data.selection.weights: {selection.weights} compares two branches, but "
                "model.weak is null; use uniform, or give data.selection.entropies"
            )
        self.path = path
        self.branches = {"strong": strong} if weak is None else {"strong": strong, "weak": weak}
        self.selection = selection
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.max_tokens = max_tokens
        self.packed = max_tokens is not None
        self.val_fraction = val_fraction
        self.cache = Path(cache)
        self.corpus = Corpus(
            path, strong, self.cache, system_prompt, max_length, too_long, on_bad_row
        )
        self.plan: Plan | None = None

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
        _ = self.corpus.records, self.corpus.end_token
        if self.selection.entropies is not None and self.selection.weights != "uniform":
            EntropyTable.read(Path(self.selection.entropies)).rounds()
        if "weak" in self.branches:
            check_same_vocabulary(self.branches["strong"], self.branches["weak"])

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The strong branch's, which encodes the data."""
        return self.corpus.tokenizer

    def prepare_data(self) -> None:
        """Encode once per machine; every process then reads the cached result."""
        _ = self.corpus.samples

    def setup(self, stage: str) -> None:
        """Encode, split, and for training also score, weight, draw and plan."""
        samples = self.corpus.samples
        held_out = column(samples, "prompt_hash") < self.val_fraction
        self.train_samples = samples.select(np.flatnonzero(~held_out))
        self.val_samples = samples.select(np.flatnonzero(held_out))
        if self.val_fraction and not len(self.val_samples):
            rank_zero_warn(
                f"none of the {len(samples)} samples falls to validation; raise data.val_fraction "
                f"({self.val_fraction}) for validation metrics"
            )
        if stage == "fit":
            if not len(self.train_samples):
                raise UserError(f"{self.path}: no sample is left to train on; see data.max_length")
            self._make_plan()

    def _make_plan(self) -> None:
        assert self.trainer is not None
        lengths, completions = _lengths(self.train_samples)
        probabilities = self._weigh()
        self.plan = Plan(
            self.selection.draw_epoch(probabilities, lengths, self._seed),
            lengths,
            completions,
            self.batch_size,
            self.micro_batch_size,
            self._seed,
            self.max_tokens,
        )
        # Lightning and DeepSpeed both read this, after setup
        self.trainer.accumulate_grad_batches = self.plan.accumulation(self.trainer.world_size)
        self.summary = Summary.of(probabilities, self.plan.drawn, lengths, self.plan.steps)
        rank_zero_info(f"selected {self.summary}")
        self._log(asdict(self.summary))

    def made(self) -> dict[str, Any]:
        """What a fit trains on, for checkpoints and the model card."""
        chosen = self.selection
        return {
            "path": str(self.path),
            "sha256": self.corpus.data_digest,
            "weights": chosen.weights,
            **{name: getattr(chosen, name) for name in ("alpha", "beta", "gamma", "draw")},
            **asdict(self.summary),
        }

    def state_dict(self) -> dict[str, Any]:
        """Which optimizer steps the position in a checkpoint counts."""
        assert self.plan is not None
        return {"plan": self.plan.digest, "data": self.corpus.data_digest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make sure that a resumed fit goes through the same optimizer steps.

        Raises:
            UserError: Data, selection, batch size or seed are not those of the checkpoint.
        """
        if self.plan is None:
            if self.corpus.data_digest != state_dict["data"]:
                rank_zero_warn(f"{self.path} is not the data that the checkpoint was trained on")
        elif self.plan.digest != state_dict["plan"]:
            raise UserError(
                "ckpt_path: the checkpoint was trained on other samples, or in another order; "
                "restore what changed (data, selection, batch_size, seed_everything, the branches; "
                "they stand in config.yaml of its run, beside checkpoints/), or start without "
                "--ckpt_path"
            )

    def _log(self, values: dict[str, float]) -> None:
        assert self.trainer is not None
        if self.trainer.logger is not None:
            named = {f"selection/{name}": value for name, value in values.items()}
            self.trainer.logger.log_metrics(named, step=0)

    @property
    def _seed(self) -> int:
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    def _weigh(self) -> NDArray[np.float64]:
        """Probability of drawing each training sample; logs what it is made of."""
        assert self.trainer is not None
        chosen = self.selection
        if chosen.weights == "uniform":
            return sampling_weights("uniform", np.empty((0, len(self.train_samples))))[0]
        history, known = self._history()
        idx = column(self.train_samples, "idx")
        drawable, shares = sampling_weights(
            chosen.weights, history, chosen.alpha, chosen.beta, chosen.gamma, idx[known]
        )
        self._log({f"mass/{term}": share for term, share in shares.items()})
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and self.trainer.is_global_zero:
                figure = selection_figure(history, drawable)
                logger.experiment.add_figure("selection", figure)
        probabilities = np.zeros(len(known))
        probabilities[known] = drawable
        return probabilities

    def _history(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """[rounds, known samples] entropies, and which training samples are known."""
        idx = column(self.train_samples, "idx")
        if self.selection.entropies is None:
            tables = [self._scores(name) for name in ("weak", "strong")]
            rounds = [table.rounds()[0, table.find(idx, "error")[0]] for table in tables]
            return np.stack(rounds), np.ones(len(idx), dtype=bool)
        table = EntropyTable.read(Path(self.selection.entropies))
        place, known = table.find(idx, self.selection.missing_entropies)
        if not known.all():
            rank_zero_info(f"{(~known).sum()} training samples have no entropy and are not drawn")
        return table.rounds()[:, place[known]], known

    def _scores(self, name: str) -> EntropyTable:
        """Entropies of the training samples under one branch; every process scores a share."""
        assert self.trainer is not None
        source, strategy = self.branches[name], self.trainer.strategy
        device = strategy.root_device
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        key = {
            **self.corpus.key(),
            "branch": model_digest(source),
            "val_fraction": self.val_fraction,
            "dtype": str(dtype),
        }
        folder = self.cache / "entropy" / value_digest(key)[:16]
        store = EntropyStore(folder / "entropy.jsonl", key)
        if (scores := store.load()) is None:
            store.score(
                lambda: load_branch(source, dtype, device=device),
                self.train_samples,
                self.corpus.pad_token,
                f"entropy of {name}",
                self.trainer.global_rank,
                self.trainer.world_size,
            )
            strategy.barrier("scored")
            if self.trainer.is_global_zero and not store.finish(len(self.train_samples)):
                raise RuntimeError(f"{folder}: some samples have no score")
            strategy.barrier("merged")
            scores = store.load()
            assert scores is not None
        return scores

    def train_dataloader(self) -> DataLoader:
        """This rank's micro-batches, from the optimizer step that the trainer stands at."""
        assert self.plan is not None and self.trainer is not None
        trainer = self.trainer
        share = RankShare(
            self.plan, trainer.global_rank, trainer.world_size, lambda: trainer.global_step
        )
        return batch_loader(self.train_samples, share, self.corpus.pad_token, self.packed)

    def val_dataloader(self) -> DataLoader | list:
        """Every sample of the validation share once, over all ranks."""
        if not len(self.val_samples):
            return []
        assert self.trainer is not None
        lengths, completions = _lengths(self.val_samples)
        batches = [
            MicroBatch(part, int(completions[part].sum())) for part in self._val_parts(lengths)
        ]
        batches += [MicroBatch([], 0)] * (-len(batches) % self.trainer.world_size)
        share = batches[self.trainer.global_rank :: self.trainer.world_size]
        return batch_loader(self.val_samples, share, self.corpus.pad_token, self.packed)

    def _val_parts(self, lengths: NDArray[np.int64]) -> list[list[int]]:
        """Which validation samples share a forward pass."""
        if self.max_tokens is not None:
            return pack(lengths, self.max_tokens)
        order = np.argsort(-lengths, kind="stable")
        size = self.micro_batch_size
        return [order[first : first + size].tolist() for first in range(0, len(order), size)]


def _lengths(samples: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens and completion tokens of each sample."""
    lengths = column(samples, "length").astype(np.int64)
    return lengths, lengths - column(samples, "prompt_length")
