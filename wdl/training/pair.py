"""The pair: a strong branch that trains and its own earlier state, whatever the method.

Loading, freezing, adapters, the optimizer, what a checkpoint holds and the refusal of what is not
finite are the same for every method. A method is a subclass with a ``loss``, chosen by
``model.class_path`` in a configuration: see docs/own-method.md.
"""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any, Literal, Self, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from wdl import __version__
from wdl.branches.compiling import Backend, check_backend, compile_layers
from wdl.branches.loading import load_branch
from wdl.branches.lora import Lora, check_lora, is_adapter, load_adapted, without_adapter
from wdl.branches.reading import hidden_states, output_head
from wdl.branches.whole_weights import all_finite, whole_shapes
from wdl.config.paths import ModelSource, lasting
from wdl.data.batches import Batch
from wdl.data.planned import PlannedDataModule
from wdl.data.scoring import branch_digest
from wdl.errors import UserError
from wdl.metrics.flops import Trains
from wdl.metrics.token_mean import TokenMean
from wdl.system.types import PreTrainedModel
from wdl.training.optimizer_step import OptimizerStep, Schedule, make_optimizer, with_schedule
from wdl.training.resume import Agreement, check_adapter, check_weights, resume
from wdl.training.vision import FrozenVision


class Pair(pl.LightningModule, ABC):
    """Base of all methods.

    Args:
        strong: The branch to make stronger: a Hugging Face folder or a name on the model hub.
        weak: The earlier state, or null. It may have another hidden size, never another
            vocabulary.
        train_weak: Whether the weak branch trains too or stays as it is; then checkpoints hold its
            hash alone, and resuming reads it from ``weak`` again.
        weak_dtype: Of the weights of a weak branch that does not train, to save memory where the
            strong one trains in float32; like the strong one's by default.
        pretrained: False starts the strong branch from random weights, by its configuration.
        optimizer: Optimizer of everything that trains.
        schedule: Course of the learning rate after the warm-up.
        warmup: Share of the optimizer steps in which the learning rate rises from 0.
        gradient_checkpointing: Recompute activations in the backward pass to save memory.
        compile_backend: Compile the layers of the branches, by torch's inductor; not under ZeRO
            stage 3. The first steps wait for it.
        lora: Train an adapter instead of the weights. The weak branch is then the model without
            it, which costs no memory: ``strong`` is the same model as ``weak`` or, to go on with
            the adapter of an earlier run from ``weak``, what that run exported. Checkpoints hold
            the adapter alone. Needs ``pip install 'wdl[lora]'``.
        train_vision: Whether what makes hidden states of pictures trains too. Otherwise it stays as
            it is, and checkpoints refer to ``strong`` for it.

    Attributes:
        method, tags: What the model card says of how it was made.
        loss_names: What validation logs as ``val/NAME``, the mean over what batches count.
        stored_reference: Whose log-probabilities of all answers the batches are to bring.
        batch_type: What ``loss`` reads; data that make other batches are refused.
    """

    method = "A model trained as the strong branch of a pair."
    tags: tuple[str, ...] = ("wdl",)
    loss_names: tuple[str, ...] = ("loss",)
    stored_reference: ModelSource | None = None
    batch_type: type = Batch

    def __init__(
        self,
        strong: ModelSource,
        weak: ModelSource | None = None,
        train_weak: bool = False,
        weak_dtype: Literal["bfloat16", "float16"] | None = None,
        pretrained: bool = True,
        optimizer: OptimizerCallable = lambda parameters: torch.optim.AdamW(
            parameters, lr=1e-5, weight_decay=0.0
        ),
        schedule: Schedule = "cosine",
        warmup: float = 0.1,
        gradient_checkpointing: bool = False,
        compile_backend: Backend | None = None,
        lora: Lora | None = None,
        train_vision: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= warmup <= 1:
            raise UserError(f"model.warmup: {warmup} is a share of all steps, so in [0, 1]")
        if weak_dtype is not None and (weak is None or train_weak or lora is not None):
            raise UserError(
                f"model.weak_dtype: {weak_dtype} is for a weak branch that has weights of its own "
                "and does not train; set model.train_weak to false, or leave weak_dtype out"
            )
        if compile_backend is not None:
            check_backend(compile_backend)
        if lora is not None:
            check_lora(lora, strong, weak, train_weak, pretrained, train_vision)
        make_optimizer(optimizer, [nn.Parameter(torch.zeros(1, 1))])
        given = {"strong": strong} if weak is None else {"strong": strong, "weak": weak}
        self.sources = {name: lasting(source) for name, source in given.items()}
        self.train_weak, self.weak_dtype = train_weak, weak_dtype
        self.pretrained = pretrained
        self.optimizer, self.schedule, self.warmup = optimizer, schedule, warmup
        self.gradient_checkpointing, self.compile_backend = gradient_checkpointing, compile_backend
        self.lora = lora
        self._vision = FrozenVision(keeps=not train_vision and lora is None)
        self.branches, self.val_losses = nn.ModuleDict(), nn.ModuleDict()
        self._frozen: dict[str, str] = {}
        self._step = OptimizerStep()

    @abstractmethod
    def loss(self, batch: Batch) -> Tensor:
        """The loss of a micro-batch: a sum over what it counts / ``batch["denominator"]``.

        Called inside the strategy's forward, where sharded output heads are at hand.
        """

    def settings(self) -> dict[str, Any]:
        """What the method adds to the record of how a model was made."""
        return {}

    def control(self) -> list[str]:
        """Options of ``wdl fit`` that make a run the control of this one: no earlier state."""
        return ["--model.weak", "null", "--model.weak_dtype", "null"]

    @property
    def strong(self) -> PreTrainedModel:
        """The branch that is exported."""
        return cast(PreTrainedModel, self.branches["strong"])

    @property
    def base(self) -> ModelSource:
        """Where the weights come from that an adapter adapts: those that both branches share."""
        return self.sources.get("weak", self.sources["strong"])

    def to(self, *args: Any, dtype: torch.dtype | None = None, **kwargs: Any) -> Self:
        """Move, without the cast that trainers ask for by name."""
        # it would round the frequencies of rotary embeddings, and so displace all later positions
        return super().to(*args, **kwargs)

    def configure_model(self) -> None:
        """Load the branches, under whatever sharding the strategy wants."""
        if self.branches:
            return
        dtype = torch.get_default_dtype()
        packed = self._trainer is not None and self._data.packed
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
            self.add_branch(name, branch)
            if self.compile_backend is not None:
                compile_layers(branch, self.compile_backend)
        self.val_losses.update({name: TokenMean() for name in self.loss_names})

    def add_branch(self, name: str, branch: PreTrainedModel) -> None:
        """Take a branch as it was loaded, and freeze of it what does not train."""
        if self.trains(name) == "nothing":
            branch.requires_grad_(False).eval()
        else:
            if self.gradient_checkpointing:
                branch.gradient_checkpointing_enable({"use_reentrant": False})
            self._vision.add(branch, f"branches.{name}.")
        self.branches[name] = branch

    def hidden(self, name: str, batch: Batch) -> tuple[Tensor, Tensor]:
        """What a branch's output head reads [B·T, H], with a graph if it trains; its weight."""
        own = name in self.branches  # or it is the strong one without its adapter
        branch = cast(PreTrainedModel, self.branches[name if own else "strong"])
        acting = nullcontext() if own else without_adapter(branch)
        trains = torch.is_grad_enabled() and self.trains(name) != "nothing"
        with acting, torch.set_grad_enabled(trains):
            tokens, mask = batch["input_ids"], batch["attention_mask"]
            states = hidden_states(branch, tokens, mask, batch.get("segments"), batch.get("images"))
        return states.flatten(0, 1), output_head(branch).weight

    def trains(self, name: str) -> Trains:
        """What trains of a branch."""
        if name == "weak" and not self.train_weak:
            return "nothing"
        return "all" if self.lora is None else "adapter"

    def is_frozen(self, name: str) -> bool:
        """Whether a weight stays as its source has it; then no checkpoint holds it."""
        # by name, since DeepSpeed's way to leave out what is frozen misses tied heads
        if self.lora is not None:
            return name.startswith("branches.") and not is_adapter(name)
        is_weak = not self.train_weak and name.startswith("branches.weak.")
        return is_weak or name in self._vision.names

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
        """Take back what :meth:`state_dict` returned; of another model, it is a user's error."""
        check_weights(whole_shapes(self.state_dict()), whole_shapes(state_dict))
        frozen = {n: w for n, w in super().state_dict().items() if self.is_frozen(n)}
        return super().load_state_dict({**frozen, **state_dict}, strict, assign)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one micro-batch, scaled so that steps average over completion tokens."""
        loss = self.loss(batch)
        self._step.add(loss, batch["sample_ids"])
        # the trainer averages over accumulated micro-batches and ranks; the loss is their sum
        return loss * (self.trainer.accumulate_grad_batches * self.trainer.world_size)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Stop before a loss or a gradient that is not finite reaches the weights."""
        self._step.finish(self)

    @property
    def step_loss(self) -> Tensor:
        """Of the last whole optimizer step, over all processes."""
        return self._step.loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Log the loss of each whole optimizer step."""
        if self._step.is_whole:
            self.log("train/loss", self.step_loss, prog_bar=True)
            self.on_optimizer_step_end()

    def on_optimizer_step_end(self) -> None:
        """For what a method records of each."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the means of all losses over completion tokens."""
        tokens = batch["denominator"]
        # an empty batch runs too: under ZeRO stage 3 every forward pass is a collective
        batch["denominator"] = max(tokens, 1)
        for name, value in self.validation_losses(batch).items():
            metric = cast(TokenMean, self.val_losses[name])
            metric.update(value, tokens)
            self.log(f"val/{name}", metric, prog_bar=name == "loss", batch_size=1)

    def validation_losses(self, batch: Batch) -> dict[str, Tensor]:
        """Each of ``loss_names``, as a mean over the batch's completion tokens."""
        return {"loss": self.loss(batch)}

    def histograms(self) -> dict[str, Tensor]:
        """Counts of values seen in validation, by name; every process must call this."""
        return {}

    def made(self) -> dict[str, Any]:
        """How the branches were made so far, for checkpoints and the model card.

        Every process must call this.
        """
        metrics = self.trainer.callback_metrics
        return {
            "method": self.method,
            "tags": list(self.tags),
            **{name: str(source) for name, source in self.sources.items()},
            **self._frozen,
            **self._vision.made,
            **self.settings(),
            "train_weak": self.train_weak,
            **({} if self.lora is None else {"lora": asdict(self.lora)}),
            "dtype": str(self.strong.dtype).removeprefix("torch."),
            "steps": self.trainer.global_step,
            "seed": os.environ.get("PL_GLOBAL_SEED"),
            "wdl": __version__,
            "data": self._data.made(),
            "metrics": {n: v.item() for n, v in metrics.items() if re.match("val/.*loss$", n)},
        }

    def setup(self, stage: str) -> None:
        """Hash the weights that checkpoints refer to, as they are loaded."""
        self._data.check_reader(self.batch_type)
        kept = None if self.train_weak else self.sources.get("weak")
        source = kept if self.lora is None else self.base
        if source is not None:
            digest = branch_digest(source, self.trainer)
            self._frozen = {"frozen": str(source), "frozen_sha256": digest}
        own = {n: s for n, s in self.sources.items() if n == "strong" or self.train_weak}
        self._vision.hash(own, self.pretrained, self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say how it was made, and what a run must agree with to go on from it.

        Raises:
            UserError: A weight is not finite; the checkpoint before it stays the last.
        """
        if not self.trainer.strategy.reduce_boolean_decision(all_finite(self)):
            raise UserError(
                f"some weights are not finite after optimizer step {self.global_step}: no "
                "checkpoint is written; lower the learning rate and go on with --ckpt_path last"
            )
        checkpoint["made"] = self.made()
        checkpoint["agreement"] = asdict(self._agreement())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from it, if it is of this run."""
        check_adapter(checkpoint["made"].get("lora"), self.lora)
        resume(checkpoint, self._agreement(), fitting=self.trainer.state.fn == "fit")

    def _agreement(self) -> Agreement:
        steps = self.trainer.accumulate_grad_batches
        frozen = self._frozen | self._vision.agreed
        known = self._data.agreement() | frozen | {"settings": self.settings()}
        return Agreement(accumulation=steps, **known)

    @property
    def _data(self) -> PlannedDataModule:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer over what trains, and a schedule over all optimizer steps."""
        steps = int(self.trainer.estimated_stepping_batches)
        self._step.watch(self)
        return with_schedule(self.optimizer, self.parameters(), self.schedule, self.warmup, steps)
