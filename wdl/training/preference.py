"""Preference training: a model learns to prefer right answers to wrong ones (DPO and its kin).

    d = (ln P(chosen) − ln P_ref(chosen)) − (ln P(rejected) − ln P_ref(rejected))
    loss = −ln σ(β·d)                                                      (arXiv 2305.18290)

The pair again: the strong branch trains, and its earlier state is the reference. The other forms
of the loss stand in :mod:`wdl.losses.preference`. A batch holds questions, each with all of its
answers; every answer runs through the model once, in however many pairs it takes part.
"""

import math
from dataclasses import asdict
from typing import Any, Literal, cast

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from wdl.config.paths import ModelSource, lasting
from wdl.data.batches import Batch
from wdl.data.preference import PreferenceBatch
from wdl.errors import UserError
from wdl.losses.buffers import sent
from wdl.losses.preference import Preference, linear_preference_loss, sequence_logps
from wdl.metrics.preference import DISPLACEMENT, PreferenceMeans
from wdl.training.pair import Pair

DPO = Preference()
ALARM, FALL = 0.5, 1.0
"""A run says so, once, where more than this share of the chosen answers got less likely, and all on
the average by this many nats: less is noise of rounding and of the first steps."""


class PreferenceModule(Pair):
    """Trains the strong branch of a pair on preferences, against its earlier state.

    Args:
        strong: The branch to make stronger: a Hugging Face folder or a name on the model hub.
        weak: The reference; what the run begins with (``strong``) by default. It must have the same
            vocabulary.
        reference: ``stored`` scores every answer under the reference once, before training, and
            keeps the numbers in ``data.cache``: no second model in memory. ``branch`` keeps the
            reference as a frozen branch, whose weights ``weak_dtype`` may narrow, and runs it at
            every step; with ``lora`` that is the strong branch without its adapter.
        objective: What is minimised.
        **pair: As of :class:`Pair`.
    """

    tags = ("wdl", "preference-training")
    batch_type = PreferenceBatch

    def __init__(
        self,
        strong: ModelSource,
        weak: ModelSource | None = None,
        reference: Literal["stored", "branch"] = "stored",
        objective: Preference = DPO,
        **pair: Any,
    ) -> None:
        _check(objective, weak)
        held = objective.needs_reference and reference == "branch"
        if pair.get("weak_dtype") and not held:
            raise UserError(
                f"model.weak_dtype: {pair['weak_dtype']} is for a reference that is a branch; "
                "set model.reference to branch, or leave weak_dtype out"
            )
        super().__init__(
            strong=strong, weak=(weak or strong) if held else None, train_weak=False, **pair
        )
        if objective.needs_reference and weak is None and not self.pretrained:
            raise UserError("model.pretrained: random weights are no reference; set it to true")
        self.stored_reference = None
        if objective.needs_reference and not held:
            self.stored_reference = lasting(weak or strong)
        self.objective = objective
        against = ", against its own earlier state" if objective.needs_reference else ""
        self.method = (
            f"A model trained to prefer chosen to rejected answers{against} "
            f"(`{objective.form}`, one of the forms of [DPO](https://arxiv.org/abs/2305.18290))."
        )
        self.loss_names = ("loss", "preference_loss", "nll_loss")
        self.train_means, self.val_means = PreferenceMeans(objective), PreferenceMeans(objective)
        self._alarmed = False

    def settings(self) -> dict[str, Any]:
        """The objective; a margin only where it has one."""
        known = asdict(self.objective)
        return {
            name: known[name] for name in known if name != "margin" or self.objective.has_margin
        }

    def control(self) -> list[str]:
        """Plain SFT; the data say on what."""
        return [
            *("--model", "wdl.training.weak_driven.WeakDrivenModule"),
            *super().control(),
            *("--model.lam", "1"),
        ]

    def forward(self, batch: PreferenceBatch) -> tuple[Tensor, ...]:
        """The loss and what it was made of.

        Computed here, inside the strategy's forward, so that sharded output heads are at hand.

        Returns:
            Scalars: the loss and its two parts, all divided by the denominator; then the
            log-probabilities [S] float64 of the answers, and, where there is a reference, those
            under it.
        """
        labels, completions = batch["labels"].flatten(), batch["completions"]
        stored = batch.get("reference")
        reference = None if stored is None else sent(stored, torch.float64, labels.device)
        if "weak" in self.sources:
            read = self.hidden("weak", cast(Batch, batch))
            reference = sequence_logps(*read, labels, completions)
        found = linear_preference_loss(
            *self.hidden("strong", cast(Batch, batch)),
            labels,
            completions,
            *(batch["chosen"], batch["rejected"], batch["weights"]),
            reference,
            self.objective,
            denominator=batch["denominator"],
        )
        under = () if reference is None else (reference,)
        return found.loss, found.preference, found.nll, found.logps, *under

    def loss(self, batch: Batch) -> Tensor:
        """Of all pairs, each question weighing 1, divided by the questions of the step."""
        return self._measure(cast(PreferenceBatch, batch), self.train_means, self._is_due(1))[0]

    def validation_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The loss and its parts."""
        losses = self._measure(cast(PreferenceBatch, batch), self.val_means, True)
        return dict(zip(self.loss_names, losses, strict=True))

    def _measure(
        self, batch: PreferenceBatch, means: PreferenceMeans, recorded: bool
    ) -> tuple[Tensor, ...]:
        """The loss of a micro-batch and its parts; what is recorded of it goes to ``means``."""
        loss, preference, nll, logps, *reference = self(batch)
        if recorded:
            on = logps.device
            means.update(
                logps,
                reference[0] if reference else None,
                sent(batch["completions"], torch.float64, on),
                sent(batch["chosen"], torch.int64, on),
                sent(batch["rejected"], torch.int64, on),
                sent(batch["weights"], torch.float64, on),
            )
        return loss, preference, nll

    def _is_due(self, ahead: int) -> bool:
        """Whether the means of a step are logged, at the trainer's cadence."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        return every > 0 and (self.global_step + ahead) % every == 0

    def on_optimizer_step_end(self) -> None:
        """Log the means of the step."""
        if not self._is_due(0):  # the count has gone on
            return
        means = self.train_means.compute()
        scalars = dict(zip(means, torch.stack([*means.values()]).tolist(), strict=True))
        self.train_means.reset()
        for logger in self.loggers:
            logger.log_metrics(scalars, step=self.global_step - 1)

    def on_validation_epoch_end(self) -> None:
        """Log the means of all validation pairs; say once if the chosen answers get less likely."""
        means = self.val_means.compute()
        self.val_means.reset()
        self.log_dict({f"val/{name}": mean for name, mean in means.items()})
        fallen = means[DISPLACEMENT].item() if DISPLACEMENT in means else math.nan
        fall = -means["rewards/chosen"].item() / self.objective.beta
        trained = self.global_step > 0
        if fallen > ALARM and fall > FALL and trained and not self._alarmed:
            self._alarmed = True
            rank_zero_warn(
                f"{fallen:.0%} of the chosen validation answers are less likely than under the "
                f"reference (val/displacement), all of them by {fall:.3g} nats on the average. DPO "
                "allows it, but nobody wants it: lower the learning rate, or give "
                "model.objective.nll a weight"
            )


def _check(objective: Preference, weak: str | None) -> None:
    for name in ("beta", "margin", "nll", "label_smoothing"):
        value = getattr(objective, name)
        key = f"model.objective.{name}: {value}"
        if not math.isfinite(value) or value < 0 or (name == "beta" and value == 0):
            raise UserError(f"{key} must be {'above 0' if name == 'beta' else '0 or more'}")
    if objective.label_smoothing >= 0.5:
        raise UserError(
            f"model.objective.label_smoothing: {objective.label_smoothing} is the share of pairs "
            "whose sides are taken to be exchanged; it must lie in [0, 0.5)"
        )
    if objective.margin != DPO.margin and not objective.has_margin:
        raise UserError(
            f"model.objective.margin: {objective.margin} is of simpo, not {objective.form}; "
            "leave it out"
        )
    if weak is not None and not objective.needs_reference:
        raise UserError(f"model.weak: {objective.form} has no reference; set model.weak to null")
