"""Weak-driven learning: a weak/strong pair trained on its mixed logits.

    z = λ·z_strong + (1 − λ)·z_weak        loss = cross-entropy of softmax(z) on completion tokens

Without a weak branch z = λ·z_strong: plain SFT at λ = 1, the scale-only control below. Only the
strong branch is kept afterwards. (arXiv 2602.08222)
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from wdl.config.paths import ModelSource
from wdl.data.batches import Batch, completion_tokens
from wdl.errors import UserError
from wdl.losses.logit_statistics import DynamicsLevel
from wdl.losses.mixed_loss import mixed_linear_cross_entropy
from wdl.metrics.dynamics import DYNAMICS, MeanDynamics
from wdl.training.pair import Pair


@dataclass(frozen=True)
class Dynamics:
    """Which statistics of the logits a run records, and how often.

    Args:
        level: ``off``: none. ``cheap``: in training, target and mean non-target logit and their
            margin, which cost nothing measurable; in validation everything. ``full``: everything.
        every_n_steps: In training, record every n-th optimizer step, from the first.
    """

    level: DynamicsLevel = "full"
    every_n_steps: int = 10


DEFAULT_DYNAMICS = Dynamics()


class WeakDrivenModule(Pair):
    """Trains the strong branch of a pair, from the mixture with a weaker past state of it.

    Args:
        strong: The branch to make stronger: a Hugging Face folder or a name on the model hub.
        weak: The earlier state, or null for plain SFT. It may have another hidden size, never
            another vocabulary.
        lam: λ, the share of the strong branch in the mixture, in [0, 1].
        train_weak: Whether the weak branch trains too (paper v2) or stays as it is (paper v1); then
            checkpoints hold its hash alone, and resuming reads it from ``weak`` again.
        dynamics: What to record of the logits.
        **pair: As of :class:`Pair`.
    """

    def __init__(
        self,
        strong: ModelSource,
        weak: ModelSource | None = None,
        lam: float = 0.5,
        train_weak: bool = True,
        dynamics: Dynamics = DEFAULT_DYNAMICS,
        **pair: Any,
    ) -> None:
        super().__init__(strong=strong, weak=weak, train_weak=train_weak, **pair)
        if not 0 <= lam <= 1:
            raise UserError(f"model.lam: {lam} is the strong branch's share; it must lie in [0, 1]")
        if dynamics.every_n_steps < 1:
            raise UserError(
                f"model.dynamics.every_n_steps: {dynamics.every_n_steps} must be at least 1"
            )
        self.lam = lam
        self.dynamics = dynamics
        paired = weak is not None
        self.loss_names = ("loss", *(f"{name}_loss" for name in self.sources))
        self.tags = ("wdl", "weak-driven-learning" if paired else "sft")
        self.method = (
            "The strong branch of a weak-driven pair ([method](https://arxiv.org/abs/2602.08222)): "
            "trained through the cross-entropy of λ·z_strong + (1−λ)·z_weak and exported alone."
            if paired
            else "A model trained by supervised fine-tuning."
        )
        self.train_dynamics = MeanDynamics(dynamics.level == "full", paired)
        self.val_dynamics = MeanDynamics(True, paired, histograms=True)

    def settings(self) -> dict[str, Any]:
        """The share of the strong branch."""
        return {"lam": self.lam}

    def control(self) -> list[str]:
        """Plain SFT."""
        return [*super().control(), "--model.lam", "1"]

    def forward(
        self, batch: Batch, record: MeanDynamics | None = None, alone: bool = False
    ) -> tuple[Tensor, ...]:
        """Cross-entropies, summed over completion tokens and divided by the denominator.

        Computed here, inside the strategy's forward, so that sharded output heads are at hand.

        Args:
            batch: What each branch reads, once.
            record: What the dynamics of the mixture are added to.
            alone: Whether to compute the loss of each branch by itself, too.

        Returns:
            Scalars, one for each of ``loss_names``, or that of the mixture.
        """
        read = [self.hidden(name, batch) for name in self.sources]
        weak = read[1] if len(read) > 1 else (None, None)
        labels, denominator = batch["labels"].flatten(), batch["denominator"]
        pair = *read[0], *weak, labels, self.lam
        if record is None:
            mixed = mixed_linear_cross_entropy(*pair, denominator=denominator)
        else:
            level: Literal["cheap", "full"] = "full" if record.full else "cheap"
            mixed, dynamics = mixed_linear_cross_entropy(
                *pair, denominator=denominator, dynamics=level
            )
            record.update(dynamics, completion_tokens(batch), len(read[0][1]))
        by_itself = (
            mixed_linear_cross_entropy(*one, None, None, labels, 1.0, denominator=denominator)
            for one in (read if alone else [])
        )
        return mixed, *by_itself

    def loss(self, batch: Batch) -> Tensor:
        """The mixture's cross-entropy, with the dynamics of every n-th optimizer step."""
        recorded = self.global_step % self.dynamics.every_n_steps == 0
        record = self.train_dynamics if recorded and self.dynamics.level != "off" else None
        return self(batch, record)[0]

    def on_optimizer_step_end(self) -> None:
        """Log the dynamics that the step recorded."""
        if self.train_dynamics.update_called:
            self._write_dynamics()

    def _write_dynamics(self) -> None:
        """To the logger at once, since Lightning's own cadence is another."""
        means = self.train_dynamics.compute().means
        self.train_dynamics.reset()
        values = torch.stack([*means.values()]).tolist()  # a GPU is waited for once
        scalars = {f"dynamics/{name}": value for name, value in zip(means, values, strict=True)}
        for logger in self.loggers:
            logger.log_metrics(scalars, step=self.global_step - 1)

    def validation_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Of the mixture, and of each branch alone."""
        record = self.val_dynamics if self.dynamics.level != "off" else None
        return dict(zip(self.loss_names, self(batch, record, alone=True), strict=True))

    def histograms(self) -> dict[str, Tensor]:
        """Of the dynamics of all validation tokens."""
        return {} if self.dynamics.level == "off" else self.val_dynamics.compute().histograms

    def on_validation_epoch_end(self) -> None:
        """Log the dynamics of all validation tokens."""
        if self.dynamics.level != "off":
            means = self.val_dynamics.compute().means
            self.val_dynamics.reset()
            self.log_dict({f"{DYNAMICS}{name}": mean for name, mean in means.items()})
