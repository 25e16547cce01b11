"""The Lightning module: a weak/strong pair trained on its mixed logits.

    z = λ·z_strong + (1 − λ)·z_weak        loss = cross-entropy of softmax(z) on completion tokens

Without a weak branch z = λ·z_strong: plain SFT at λ = 1, the scale-only control below. Only the
strong branch is kept afterwards.
"""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, distributed, nn
from torchmetrics import MeanMetric
from transformers import PreTrainedModel, get_scheduler

from wdl import __version__
from wdl.branches.loading import load_branch
from wdl.branches.lora import (
    Lora,
    check_lora,
    is_adapter,
    load_adapted,
    without_adapter,
)
from wdl.branches.reading import hidden_states, output_head
from wdl.branches.whole_weights import all_finite
from wdl.config.paths import ModelSource
from wdl.data.encoding import Batch, completion_tokens
from wdl.errors import UserError
from wdl.losses.logit_statistics import DynamicsLevel
from wdl.losses.mixed_loss import mixed_linear_cross_entropy
from wdl.metrics.dynamics import MeanDynamics
from wdl.system.digests import model_digest
from wdl.training.resume import adapt_progress


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


class WeakDrivenModule(pl.LightningModule):
    """Trains the strong branch of a pair, from the mixture with a weaker past state of it.

    Args:
        strong: The branch to make stronger: a Hugging Face folder or a name on the model hub.
        weak: The earlier state, or null for plain SFT. It may have another hidden size, never
            another vocabulary.
        lam: λ, the share of the strong branch in the mixture, in [0, 1].
        train_weak: Whether the weak branch trains too (paper v2) or stays as it is (paper v1); then
            checkpoints hold its hash alone, and resuming reads it from ``weak`` again.
        weak_dtype: Of the weights of a weak branch that does not train, to save memory where the
            strong one trains in float32; like the strong one's by default.
        pretrained: False starts the strong branch from random weights, by its configuration.
        optimizer: Optimizer of everything that trains.
        schedule: Course of the learning rate after the warm-up.
        warmup: Share of the optimizer steps in which the learning rate rises from 0.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        lora: Train an adapter instead of the weights. The weak branch is then the model without
            it, which costs no memory: ``strong`` is the same model as ``weak`` or, to go on with
            the adapter of an earlier run from ``weak``, what that run exported. Checkpoints hold
            the adapter alone. Needs ``pip install 'wdl[lora]'``.
        dynamics: What to record of the logits.
    """

    def __init__(
        self,
        strong: ModelSource,
        weak: ModelSource | None = None,
        lam: float = 0.5,
        train_weak: bool = True,
        weak_dtype: Literal["bfloat16", "float16"] | None = None,
        pretrained: bool = True,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(
            parameters, lr=1e-5, weight_decay=0.0
        ),
        schedule: Literal["cosine", "linear", "constant"] = "cosine",
        warmup: float = 0.1,
        gradient_checkpointing: bool = False,
        lora: Lora | None = None,
        dynamics: Dynamics = DEFAULT_DYNAMICS,
    ) -> None:
        super().__init__()
        if not 0 <= lam <= 1:
            raise UserError(f"model.lam: {lam} is the strong branch's share; it must lie in [0, 1]")
        if not 0 <= warmup <= 1:
            raise UserError(
                f"model.warmup: {warmup} is a share of the steps; it must lie in [0, 1]"
            )
        if dynamics.every_n_steps < 1:
            raise UserError(
                f"model.dynamics.every_n_steps: {dynamics.every_n_steps} must be at least 1"
            )
        if weak_dtype is not None and (weak is None or train_weak or lora is not None):
            raise UserError(
                f"model.weak_dtype: {weak_dtype} is for a weak branch that has weights of its own "
                "and does not train; set model.train_weak to false, or leave weak_dtype out"
            )
        if lora is not None:
            check_lora(lora, strong, weak, train_weak, pretrained)
        given = {"strong": strong} if weak is None else {"strong": strong, "weak": weak}
        # a link such as runs/NAME/latest may point elsewhere tomorrow
        self.sources = {
            n: ModelSource(os.path.realpath(s)) if os.path.exists(s) else s
            for n, s in given.items()
        }
        self.lam = lam
        self.train_weak = train_weak
        self.weak_dtype = weak_dtype
        self.pretrained = pretrained
        self.optimizer = optimizer
        self.schedule = schedule
        self.warmup = warmup
        self.gradient_checkpointing = gradient_checkpointing
        self.lora = lora
        self.dynamics = dynamics
        paired = weak is not None
        self.train_dynamics = MeanDynamics(dynamics.level == "full", paired)
        self.val_dynamics = MeanDynamics(True, paired, histograms=True)
        self.branches = nn.ModuleDict()
        self.val_losses = nn.ModuleDict()
        self._frozen: dict[str, str] = {}
        self._step: list[tuple[Tensor, Tensor]] = []
        self._step_loss = torch.tensor(0.0)

    @property
    def strong(self) -> PreTrainedModel:
        """The branch that is exported."""
        return cast(PreTrainedModel, self.branches["strong"])

    @property
    def weak(self) -> PreTrainedModel | None:
        """The earlier state, if there is one with weights of its own."""
        return cast(PreTrainedModel, self.branches["weak"]) if "weak" in self.branches else None

    @property
    def base(self) -> str:
        """Where the weights come from that an adapter adapts: those that both branches share."""
        return self.sources.get("weak", self.sources["strong"])

    def to(self, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Self:
        """Move, without a cast: the branches were loaded in the dtypes that are meant.

        Trainers ask for ``dtype`` by name; to follow would round the frequencies of rotary
        embeddings, which transformers keeps in float32, and so displace all later positions.
        """
        return super().to(*args, **kwargs)

    def configure_model(self) -> None:
        """Load the branches, under whatever sharding the strategy wants."""
        if self.branches:
            return
        dtype = torch.get_default_dtype()
        packed = self._trainer is not None and self.trainer.datamodule.packed  # type: ignore[attr-defined]
        for name, source in self.sources.items():
            if name == "weak" and self.weak_dtype is not None:
                branch = load_branch(source, getattr(torch, self.weak_dtype), packed=packed)
            elif self.lora is None:
                pretrained = self.pretrained or name == "weak"
                branch = load_branch(source, dtype, pretrained, packed=packed)
            elif name == "weak":
                continue  # the strong branch without its adapter
            else:
                branch = load_adapted(self.lora, source, self.base, dtype, packed)
            if name == "weak" and not self.train_weak:
                branch.requires_grad_(False).eval()
            elif self.gradient_checkpointing:
                branch.gradient_checkpointing_enable({"use_reentrant": False})
            self.branches[name] = branch
        losses = ("loss", *(f"{name}_loss" for name in self.sources))
        self.val_losses.update({name: MeanMetric() for name in losses})

    def forward(
        self,
        batch: Batch,
        lam: float,
        branches: tuple[str, ...],
        record: MeanDynamics | None = None,
    ) -> Tensor:
        """Cross-entropy on the mixture of ``branches``, summed and divided by the denominator.

        Computed here, inside the strategy's forward, so that sharded output heads are at hand.
        The dynamics, too, are added to ``record`` here.
        """
        labels = batch["labels"].flatten()
        hidden, heads = [], []
        for name in branches:
            branch, acting = self._acting(name)
            trains = torch.is_grad_enabled() and (name == "strong" or self.train_weak)
            with acting, torch.set_grad_enabled(trains):
                states = hidden_states(
                    branch, batch["input_ids"], batch["attention_mask"], batch.get("segments")
                )
            hidden.append(states.flatten(0, 1))
            heads.append(output_head(branch).weight)
        hidden_weak, head_weak = (hidden[1], heads[1]) if len(branches) > 1 else (None, None)
        pair = hidden[0], heads[0], hidden_weak, head_weak, labels, lam
        denominator = batch["denominator"]
        if record is None:
            return mixed_linear_cross_entropy(*pair, denominator=denominator)
        level: Literal["cheap", "full"] = "full" if record.full else "cheap"
        loss, dynamics = mixed_linear_cross_entropy(*pair, denominator=denominator, dynamics=level)
        record.update(dynamics, completion_tokens(batch), len(heads[0]))
        return loss

    def _acting(self, name: str) -> tuple[PreTrainedModel, AbstractContextManager]:
        """The model of a branch, and where it acts as that branch."""
        if name in self.branches:
            return cast(PreTrainedModel, self.branches[name]), nullcontext()
        return self.strong, without_adapter(self.strong)

    def is_frozen(self, name: str) -> bool:
        """Whether a weight of this module stays as its source has it; then no checkpoint holds it.

        By name, since DeepSpeed's way to leave out what is frozen misses tied heads.
        """
        if self.lora is not None:
            return name.startswith("branches.") and not is_adapter(name)
        return not self.train_weak and name.startswith("branches.weak.")

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """What a checkpoint holds: everything but what is frozen."""
        # no hook, since Lightning takes hooks away before DeepSpeed validates
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "")
        for name in [name for name in state if self.is_frozen(name.removeprefix(prefix))]:
            del state[name]
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Take back what :meth:`state_dict` returned."""
        frozen = {n: w for n, w in super().state_dict().items() if self.is_frozen(n)}
        return super().load_state_dict({**frozen, **state_dict}, strict, assign)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mixed loss of one micro-batch, scaled so that steps average over completion tokens."""
        recorded = self.global_step % self.dynamics.every_n_steps == 0
        record = self.train_dynamics if recorded and self.dynamics.level != "off" else None
        loss = self(batch, self.lam, tuple(self.sources), record)
        self._step.append((loss.detach(), batch["sample_ids"]))
        # the trainer averages over accumulated micro-batches and ranks; the loss is their sum
        return loss * (self.trainer.accumulate_grad_batches * self.trainer.world_size)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Stop before a loss that is not finite reaches the weights.

        Raises:
            UserError: Names the optimizer step and the samples.
        """
        if len(self._step) < self.trainer.accumulate_grad_batches:
            return  # DeepSpeed counts the micro-batches itself, and its steps begin with each
        losses = torch.stack([loss for loss, _ in self._step])
        self._step_loss = self.trainer.strategy.reduce(losses.sum(), reduce_op="sum")
        if not torch.isfinite(self._step_loss):
            faulty = [ids for loss, ids in self._step if not torch.isfinite(loss)]
            intact = self.trainer.strategy.reduce_boolean_decision(all_finite(self))
            samples = _on_all_ranks([idx for ids in faulty for idx in ids.tolist()])
            raise UserError(
                f"train/loss is {self._step_loss.item()} in optimizer step "
                f"{self.global_step + 1}, from the samples with idx {samples}; the weights are "
                f"{'those of the step before' if intact else 'not finite either'}. Look at these "
                "samples, lower the learning rate, or go on from the last checkpoint (--ckpt_path "
                "last) with other settings"
            )
        self._step.clear()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log the loss of each whole optimizer step, and the dynamics that it recorded."""
        if not self._step:
            self.log("train/loss", self._step_loss, prog_bar=True)
            if self.train_dynamics.update_called:
                self._write_dynamics()

    def _write_dynamics(self) -> None:
        """To the logger at once, since Lightning's own cadence is another."""
        means = self.train_dynamics.compute().means
        self.train_dynamics.reset()
        if self.logger is not None:
            scalars = {f"dynamics/{name}": mean.item() for name, mean in means.items()}
            self.logger.log_metrics(scalars, step=self.global_step - 1)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Per-token losses of the mixture and of each branch alone."""
        tokens = batch["denominator"]
        # an empty batch runs too: under ZeRO stage 3 every forward pass is a collective
        batch["denominator"] = max(tokens, 1)
        mixtures = {"loss": (self.lam, tuple(self.sources))}
        mixtures |= {f"{name}_loss": (1.0, (name,)) for name in self.sources}
        for name, (lam, branches) in mixtures.items():
            record = self.val_dynamics if name == "loss" and self.dynamics.level != "off" else None
            value = self(batch, lam, branches, record)
            metric = cast(MeanMetric, self.val_losses[name])
            metric.update(value, weight=tokens)
            self.log(f"val/{name}", metric, prog_bar=name == "loss", batch_size=1)

    def on_validation_epoch_end(self) -> None:
        """Log the dynamics of all validation tokens."""
        if self.dynamics.level != "off":
            means = self.val_dynamics.compute().means
            self.val_dynamics.reset()
            self.log_dict({f"val/dynamics/{name}": mean for name, mean in means.items()})

    def made(self) -> dict[str, Any]:
        """How the branches were made so far, for checkpoints and the model card.

        Every process must call this.
        """
        losses = {
            name: value.item()
            for name, value in self.trainer.callback_metrics.items()
            if name.startswith("val/") and name.endswith("loss")
        }
        return {
            **{name: str(source) for name, source in self.sources.items()},
            **self._frozen,
            "lam": self.lam,
            "train_weak": self.train_weak,
            **({} if self.lora is None else {"lora": asdict(self.lora)}),
            "dtype": str(self.strong.dtype).removeprefix("torch."),
            "steps": self.trainer.global_step,
            "seed": os.environ.get("PL_GLOBAL_SEED"),
            "wdl": __version__,
            "data": self.trainer.datamodule.made(),  # type: ignore[attr-defined]
            "metrics": losses,
        }

    def setup(self, stage: str) -> None:
        """Hash the weights that checkpoints refer to, as they are loaded."""
        source: ModelSource | str | None = None
        if self.lora is not None:
            source = self.base
        elif not self.train_weak:
            source = self.sources.get("weak")
        if source is not None:
            strategy = self.trainer.strategy
            digest = model_digest(source) if self.trainer.is_global_zero else ""
            self._frozen = {"frozen": str(source), "frozen_sha256": strategy.broadcast(digest)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say how it was made.

        Raises:
            UserError: A weight is not finite; the checkpoint before it stays the last.
        """
        if not self.trainer.strategy.reduce_boolean_decision(all_finite(self)):
            raise UserError(
                f"some weights are not finite after optimizer step {self.global_step}: no "
                "checkpoint is written; lower the learning rate and go on with --ckpt_path last"
            )
        checkpoint["made"] = self.made()
        checkpoint["accumulation"] = self.trainer.accumulate_grad_batches

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make sure that what is frozen is what it was, and count as this run does.

        Raises:
            UserError: Its files have changed since the checkpoint was written.
        """
        before = checkpoint["made"].get("frozen_sha256")
        if self._frozen.get("frozen_sha256") != before:
            raise UserError(
                f"model.weak: {self._frozen.get('frozen')} is not what the checkpoint was trained "
                f"with, {checkpoint['made'].get('frozen')} with SHA-256 {before}; restore it, or "
                "start without --ckpt_path"
            )
        accumulation = self.trainer.accumulate_grad_batches
        adapt_progress(checkpoint["loops"]["fit_loop"], checkpoint["accumulation"], accumulation)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer over what trains, and a schedule over all optimizer steps."""
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = "constant_with_warmup" if self.schedule == "constant" else self.schedule
        scheduler = get_scheduler(
            schedule,
            optimizer,
            num_warmup_steps=round(self.warmup * steps),
            num_training_steps=steps,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def _on_all_ranks(values: list[int]) -> list[int]:
    if not distributed.is_initialized():
        return values
    gathered: list[list[int]] = [[]] * distributed.get_world_size()
    distributed.all_gather_object(gathered, values)
    return [value for part in gathered for value in part]
