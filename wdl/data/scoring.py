"""What samples are scored by, and the scores that a fit needs of its own samples."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wdl.branches.loading import load_branch
from wdl.branches.reading import hidden_states, output_head
from wdl.branches.sources import model_digest
from wdl.config.paths import ModelSource
from wdl.constants import IGNORE_INDEX
from wdl.data.batches import Batch
from wdl.data.corpus import column
from wdl.data.score_store import Measure, ScoreStore
from wdl.losses.entropy import token_entropy
from wdl.losses.preference import sequence_logps
from wdl.system.digests import value_digest
from wdl.system.types import Dataset, PreTrainedModel


@torch.no_grad()
def sample_entropies(model: PreTrainedModel, batch: dict[str, Any]) -> list[float]:
    """Mean completion-token entropy of each sample of a padded batch, in nats."""
    hidden, labels = _read(model, batch)
    counted = labels != IGNORE_INDEX
    entropy = torch.zeros(labels.shape, dtype=torch.float64, device=labels.device)
    entropy[counted] = token_entropy(hidden[counted], output_head(model).weight).double()
    return (entropy.sum(dim=1) / counted.sum(dim=1)).tolist()


@torch.no_grad()
def sample_logps(model: PreTrainedModel, batch: dict[str, Any]) -> list[float]:
    """Sum of the log-probabilities of the completion tokens of each sample of a padded batch."""
    hidden, labels = _read(model, batch)
    completions = (labels != IGNORE_INDEX).sum(dim=1).tolist()
    head = output_head(model).weight
    return sequence_logps(hidden.flatten(0, 1), head, labels.flatten(), completions).tolist()


def _read(model: PreTrainedModel, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Hidden states [S, T, H] and labels [S, T]."""
    names = ("input_ids", "attention_mask", "labels")
    input_ids, mask, labels = (batch[name].to(model.device) for name in names)
    images = {name: value.to(model.device) for name, value in batch.get("images", {}).items()}
    return hidden_states(model, input_ids, mask, images=images or None), labels


ENTROPY = Measure("entropy", "entropy_0", sample_entropies, key={})
# what transformers chooses for a branch; another attention is to have another key
REFERENCE = Measure("reference", "logp", sample_logps, key={"attention": "sdpa"})


def scoring_dtype(device: torch.device) -> torch.dtype:
    """Of a branch that scores: on an accelerator as branches are trained."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def branch_digest(source: str, trainer: pl.Trainer) -> str:
    """SHA-256 of a branch, which one process reads; every process must call this."""
    return trainer.strategy.broadcast(model_digest(source) if trainer.is_global_zero else "")


def training_dtype(trainer: pl.Trainer) -> torch.dtype:
    """In which a branch that trains multiplies, so that another is compared with it alike."""
    precision = str(trainer.precision)
    names = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
    return next((names[name] for name in names if name in precision), torch.float32)


def model_scores(
    measure: Measure,
    source: ModelSource,
    digest: str,
    samples: Dataset,
    key: dict[str, Any],
    cache: Path,
    collate: Callable[[list[Any], list[int], int], Batch],
    trainer: pl.Trainer,
    dtype: torch.dtype | None = None,
) -> NDArray[np.float64]:
    """Scores under one branch, from the cache or computed; every process must call this.

    Args:
        measure: What a sample is scored by.
        source: The branch.
        digest: Its SHA-256, which decides, not its place.
        samples: What to score, with columns idx, input_ids, prompt_length and length.
        key: What the samples depend on.
        cache: Gets the scores, as MEASURE/DIGEST/MEASURE.jsonl.
        collate: Makes a padded batch of samples, their names and a denominator.
        trainer: Each of its processes scores a share.
        dtype: Of the branch; by default :func:`scoring_dtype`.

    Returns:
        [samples], in their order.
    """
    strategy, device = trainer.strategy, trainer.strategy.root_device
    dtype = dtype or scoring_dtype(device)
    key = {**key, "branch": digest, "dtype": str(dtype), **measure.key}
    file = cache / measure.name / value_digest(key)[:16] / f"{measure.name}.jsonl"
    table = ScoreStore(file, key, measure).complete(
        lambda: load_branch(source, dtype, device=device),
        samples,
        collate,
        strategy,
        trainer.global_rank,
        trainer.world_size,
    )
    if table is None:
        raise RuntimeError(f"{file}: some samples have no score")
    place, _ = table.find(column(samples, "idx"), missing="error")
    return table.fields[measure.field][place]
