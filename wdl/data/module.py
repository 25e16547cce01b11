"""The data module: from a file of instruction data to the micro-batches of every rank.

    records → tokens + completion mask → entropies (weak, strong) → weights → draw → plan

Without a weak branch nothing is scored and the weights are uniform, which is plain SFT.
"""

import hashlib
import os
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import numpy as np
import torch
from datasets import Dataset
from datasets import disable_progress_bars as disable_datasets_bars
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from wdl.data.draw import Draw, draw_samples
from wdl.data.encoding import encode, end_of_turn
from wdl.data.entropy import EntropyStore, scores_of
from wdl.data.loading import RankShare, batch_loader
from wdl.data.plan import MicroBatch, Plan
from wdl.data.records import Record, data_files, read_records
from wdl.data.weights import Scheme, effective_sample_size, sampling_weights
from wdl.errors import UserError
from wdl.fingerprint import files_digest, model_digest, value_digest
from wdl.models.branches import check_same_vocabulary, check_source, load_branch, load_tokenizer
from wdl.paths import InputPath, ModelSource

ROWS_PER_WORKER = 20_000


@dataclass(frozen=True)
class Selection:
    """Which samples a run trains on (phase 2, "selection").

    Args:
        weights: How entropies become sampling weights. Without a weak branch only uniform.
        alpha: Weight of the first term of the scheme.
        beta: Weight of the second term.
        gamma: Weight of the third term.
        draw: What becomes of samples drawn more than once.
        multiplier: Draws per sample of the training data.
        tokens: Draw until an epoch holds this many tokens, instead of by multiplier. For runs
            that are compared at equal compute.
    """

    weights: Scheme = "normalised"
    alpha: float = 0.1
    beta: float = 0.8
    gamma: float = 0.1
    draw: Draw = "with_replacement"
    multiplier: float = 1.0
    tokens: int | None = None

    def __post_init__(self) -> None:
        if min(self.alpha, self.beta, self.gamma) < 0:
            raise UserError("data.selection: alpha, beta and gamma must not be negative")
        if self.multiplier <= 0:
            raise UserError(f"data.selection.multiplier: {self.multiplier} must be above 0")


@dataclass(frozen=True)
class Summary:
    """What an epoch holds, for the screen, the logs and the results."""

    samples: int
    draws: int
    unique: int
    effective_sample_size: float
    tokens: int
    steps: int

    def __str__(self) -> str:
        return (
            f"{self.draws} of {self.samples} training samples ({self.unique} different, effective "
            f"sample size {self.effective_sample_size:.0f}), {self.tokens} tokens in {self.steps} "
            "steps"
        )


class WeakDrivenDataModule(pl.LightningDataModule):
    """Scores, weights and draws instruction data for a weak/strong pair.

    Args:
        path: Instruction data: a .json or .jsonl file, or a folder of them.
        strong: The branch that is made stronger. Its tokenizer encodes the data.
        weak: The earlier branch, or null.
        selection: How samples are weighted and drawn.
        batch_size: Samples of an optimizer step, over all processes.
        micro_batch_size: Samples of one forward pass of one process. The number of accumulated
            micro-batches follows from both sizes and the number of processes.
        max_length: Longest sample in tokens.
        too_long: What becomes of longer samples: left out, or cut at the end (then without the
            end-of-turn token, so that the model does not learn to stop half-way).
        val_fraction: Share of the samples that is kept for validation. A sample's prompt decides,
            so the same prompt never stands on both sides.
        cache: Folder for encoded data and entropies; runs with the same inputs share them.
    """

    def __init__(
        self,
        path: InputPath,
        strong: ModelSource,
        weak: ModelSource | None = None,
        selection: Selection = Selection(),
        batch_size: int = 256,
        micro_batch_size: int = 1,
        max_length: int = 4096,
        too_long: Literal["drop", "cut"] = "drop",
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
        if weak is None and selection.weights != "uniform":
            raise UserError(
                f"data.selection.weights: {selection.weights} compares two branches, but "
                "model.weak is null; use uniform"
            )
        self.path = Path(path)
        self.branches = {"strong": strong} if weak is None else {"strong": strong, "weak": weak}
        self.selection = selection
        self.batch_size = batch_size
        self.micro_batch_size = micro_batch_size
        self.max_length = max_length
        self.too_long = too_long
        self.val_fraction = val_fraction
        self.cache = Path(cache)
        self.plan: Plan | None = None

    def check_inputs(self) -> None:
        """Read the rows and look at the branches, so that faults show before any model is loaded.

        Raises:
            UserError: Everything that is wrong with the input.
        """
        for name, source in self.branches.items():
            check_source(source, f"model.{name}")
        self._files = data_files(self.path)
        self._records = read_records(self._files)
        self.tokenizer = load_tokenizer(self.branches["strong"])
        self._end_token = end_of_turn(self.tokenizer)
        self._pad_token = self.tokenizer.pad_token_id or 0
        if "weak" in self.branches:
            check_same_vocabulary(self.branches["strong"], self.branches["weak"])

    def prepare_data(self) -> None:
        """Encode once per machine; every process then reads the cached result."""
        self._encode()

    def setup(self, stage: str) -> None:
        """Encode, split, and for training also score, weight, draw and plan."""
        samples = self._encode()
        held_out = np.array([_fraction(key) < self.val_fraction for key in samples["prompt_key"]])
        self.train_samples = samples.select(np.flatnonzero(~held_out))
        self.val_samples = samples.select(np.flatnonzero(held_out))
        if stage == "fit":
            if not len(self.train_samples):
                raise UserError(f"{self.path}: no sample is left to train on; see data.max_length")
            self._make_plan()

    def _encode(self) -> Dataset:
        """Encoded samples with columns idx, input_ids, prompt_length, length, prompt_key."""
        if not hasattr(self, "_records"):
            self.check_inputs()
        # bars of datasets would break into the trainer's
        disable_datasets_bars()
        fingerprint = value_digest(self._encoding_key())[:32]
        self.cache.mkdir(parents=True, exist_ok=True)
        workers = min(os.cpu_count() or 1, 1 + len(self._records) // ROWS_PER_WORKER)
        samples = Dataset.from_list(self._records).map(
            partial(_encode_record, tokenizer=self.tokenizer, end_token=self._end_token),
            remove_columns=["messages", "completion"],
            cache_file_name=str(self.cache / f"encoded-{fingerprint}.arrow"),
            new_fingerprint=fingerprint,
            num_proc=workers if workers > 1 else None,
        )
        return self._limit_length(samples)

    def _encoding_key(self) -> dict[str, str]:
        vocabulary = self.tokenizer.get_vocab()
        return {
            "data": files_digest(self._files),
            "vocabulary": value_digest(vocabulary),
            "tokenizer": self.tokenizer.backend_tokenizer.to_str(),
            "template": str(self.tokenizer.chat_template),
        }

    def _limit_length(self, samples: Dataset) -> Dataset:
        fits = np.array(samples["length"]) <= self.max_length
        if fits.all():
            return samples
        rank_zero_info(
            f"{(~fits).sum()} of {len(fits)} samples are longer than {self.max_length} tokens "
            f"({'left out' if self.too_long == 'drop' else 'cut'}, data.too_long)"
        )
        if self.too_long == "drop":
            return samples.select(np.flatnonzero(fits))
        cut = samples.map(partial(_cut, max_length=self.max_length))
        return cut.filter(lambda sample: sample["length"] > sample["prompt_length"])

    def _make_plan(self) -> None:
        assert self.trainer is not None
        lengths, completions = _lengths(self.train_samples)
        probabilities = self._weights()
        self.plan = Plan(
            self._draw(probabilities, lengths),
            lengths,
            completions,
            self.batch_size,
            self.micro_batch_size,
            self._seed,
        )
        # Lightning and DeepSpeed both read this, after setup
        self.trainer.accumulate_grad_batches = self.plan.accumulation(self.trainer.world_size)
        self.summary = Summary(
            samples=len(probabilities),
            draws=len(self.plan.drawn),
            unique=len(np.unique(self.plan.drawn)),
            effective_sample_size=effective_sample_size(probabilities),
            tokens=int(lengths[self.plan.drawn].sum()),
            steps=self.plan.steps,
        )
        rank_zero_info(f"selected {self.summary}")
        if self.trainer.logger is not None:
            values = {f"selection/{name}": value for name, value in asdict(self.summary).items()}
            self.trainer.logger.log_metrics(values, step=0)

    @property
    def _seed(self) -> int:
        return int(os.environ.get("PL_GLOBAL_SEED", 0))

    def _weights(self) -> NDArray[np.float64]:
        if self.selection.weights == "uniform":
            unknown = np.zeros(len(self.train_samples))
            return sampling_weights("uniform", unknown, unknown)
        weak, strong = (self._entropies(name) for name in ("weak", "strong"))
        chosen = self.selection
        return sampling_weights(
            chosen.weights, weak, strong, chosen.alpha, chosen.beta, chosen.gamma
        )

    def _entropies(self, name: str) -> NDArray[np.float64]:
        """Entropies of the training samples under one branch; every process scores a share."""
        assert self.trainer is not None
        source, strategy = self.branches[name], self.trainer.strategy
        device = strategy.root_device
        dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
        key = {
            **self._encoding_key(),
            "branch": model_digest(source),
            "max_length": self.max_length,
            "too_long": self.too_long,
            "val_fraction": self.val_fraction,
            "dtype": str(dtype),
        }
        store = EntropyStore(self.cache / "entropy", key)
        if (scores := store.load()) is None:
            store.score(
                lambda: load_branch(source, dtype, device=device),
                self.train_samples,
                self._pad_token,
                f"entropy of {name}",
                self.trainer.global_rank,
                self.trainer.world_size,
            )
            strategy.barrier("scored")
            if self.trainer.is_global_zero:
                store.finish(len(self.train_samples))
            strategy.barrier("merged")
            scores = store.load()
            assert scores is not None
        return scores_of(self.train_samples, scores)

    def _draw(
        self, probabilities: NDArray[np.float64], lengths: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        chosen = self.selection
        count = max(1, round(chosen.multiplier * len(probabilities)))
        if chosen.tokens is None:
            return draw_samples(probabilities, count, chosen.draw, self._seed)
        while True:
            drawn = draw_samples(probabilities, count, chosen.draw, self._seed)
            total = np.cumsum(lengths[drawn])
            if total[-1] >= chosen.tokens:
                return drawn[: int(np.searchsorted(total, chosen.tokens)) + 1]
            count *= 2

    def train_dataloader(self) -> DataLoader:
        """This rank's micro-batches, from the optimizer step that the trainer stands at."""
        assert self.plan is not None and self.trainer is not None
        trainer = self.trainer
        share = RankShare(
            self.plan, trainer.global_rank, trainer.world_size, lambda: trainer.global_step
        )
        return batch_loader(self.train_samples, share, self._pad_token)

    def val_dataloader(self) -> DataLoader | list:
        """Every sample of the validation share once, over all ranks."""
        if not len(self.val_samples):
            return []
        assert self.trainer is not None
        lengths, completions = _lengths(self.val_samples)
        order = np.argsort(-lengths, kind="stable")
        size, world = self.micro_batch_size, self.trainer.world_size
        batches = [
            MicroBatch(part.tolist(), int(completions[part].sum()))
            for part in np.split(order, range(size, len(order), size))
        ]
        batches += [MicroBatch([], 0)] * (-len(batches) % world)
        share = batches[self.trainer.global_rank :: world]
        return batch_loader(self.val_samples, share, self._pad_token)


def _lengths(samples: Dataset) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens and completion tokens of each sample."""
    lengths = np.array(samples["length"])
    return lengths, lengths - np.array(samples["prompt_length"])


def _encode_record(record: Record, tokenizer: PreTrainedTokenizerBase, end_token: int) -> dict:
    encoded = encode(tokenizer, record["messages"], record["completion"], end_token)
    prompt = encoded["input_ids"][: encoded["prompt_length"]]
    key = hashlib.sha256(str(prompt).encode()).hexdigest()[:16]
    return {**encoded, "length": len(encoded["input_ids"]), "prompt_key": key}


def _cut(sample: dict, max_length: int) -> dict:
    tokens = sample["input_ids"][:max_length]
    return {"input_ids": tokens, "length": len(tokens)}


def _fraction(key: str) -> float:
    """A hash as a number in [0, 1)."""
    return int(key, 16) / 16 ** len(key)
