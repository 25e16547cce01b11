"""Training steps of the module under the real strategy, against autograd of the whole formula."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import pytest
import torch
from conftest import ARCHITECTURES, encode, every_sample_once
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from wdl.branches.whole_weights import gather_weights
from wdl.config.paths import ModelSource
from wdl.constants import IGNORE_INDEX
from wdl.data.batches import collate
from wdl.data.encoding import end_of_turn
from wdl.data.weak_driven import WeakDrivenDataModule
from wdl.errors import UserError
from wdl.training.deepspeed import DeepSpeed
from wdl.training.export import export_model
from wdl.training.weak_driven import Dynamics, WeakDrivenModule

LR = 0.5


def sgd(parameters: Any) -> torch.optim.SGD:
    return torch.optim.SGD(parameters, lr=LR)


def fit(
    data: Path,
    strong: Path,
    weak: Path | None,
    micro_batch_size: int = 8,
    max_steps: int = -1,
    max_tokens: int | None = None,
    batch_size: int = 8,
    precision: Literal["32-true", "bf16-true"] = "32-true",
    **settings: Any,
) -> tuple[WeakDrivenModule, pl.Trainer]:
    """An epoch of 5 steps on 40 rows, under DeepSpeed on the CPU, with plain SGD."""
    weak_source = None if weak is None else ModelSource(weak)
    module = WeakDrivenModule(
        ModelSource(strong),
        weak_source,
        schedule="constant",
        warmup=0,
        **{"optimizer": sgd, **settings},
    )
    datamodule = every_sample_once(
        data,
        ModelSource(strong),
        weak_source,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size if max_tokens is None else 1,
        max_tokens=max_tokens,
    )
    trainer = pl.Trainer(
        strategy=DeepSpeed(stage=1),
        accelerator="cpu",
        precision=precision,
        max_epochs=1,
        max_steps=max_steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule)
    return module, trainer


def weights(module: WeakDrivenModule, branch: str) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in module.branches[branch].named_parameters()}


def test_two_steps_equal_autograd_of_the_formula(sums: Path, pair: tuple[Path, Path]) -> None:
    strong, weak = pair
    module, trainer = fit(sums, strong, weak, max_steps=2, lam=0.4)
    data: WeakDrivenDataModule = trainer.datamodule  # type: ignore[attr-defined]
    assert data.plan is not None
    tokenizer = AutoTokenizer.from_pretrained(strong)
    branches = [AutoModelForCausalLM.from_pretrained(f).double().train() for f in pair]
    optimizer = sgd([p for branch in branches for p in branch.parameters()])
    for step in list(data.plan.epoch(0))[:2]:
        samples = [data.train_samples[i] for micro in step for i in micro.samples]
        batch = collate(samples, [s["idx"] for s in samples], tokenizer.pad_token_id, 1)
        z_strong, z_weak = (
            b(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            for b in branches
        )
        mixed = 0.4 * z_strong + 0.6 * z_weak
        loss = torch.nn.functional.cross_entropy(
            mixed.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORE_INDEX
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, branch in zip(("strong", "weak"), branches, strict=True):
        for key, weight in branch.named_parameters():
            ours = module.branches[name].get_parameter(key).double()
            torch.testing.assert_close(ours, weight, rtol=1e-4, atol=1e-6)
    assert trainer.logged_metrics["train/loss"].item() == pytest.approx(loss.item(), rel=1e-5)


def test_accumulation_changes_no_step(sums: Path, pair: tuple[Path, Path]) -> None:
    whole, _ = fit(sums, *pair, micro_batch_size=8)
    parts, trainer = fit(sums, *pair, micro_batch_size=2)
    assert trainer.accumulate_grad_batches == 4
    assert trainer.global_step == 5
    for name, weight in weights(whole, "strong").items():
        torch.testing.assert_close(weights(parts, "strong")[name], weight, rtol=1e-3, atol=1e-5)


def test_packing_changes_no_step(sums: Path, pair: tuple[Path, Path]) -> None:
    padded, _ = fit(sums, *pair)
    packed, trainer = fit(sums, *pair, max_tokens=10_000)
    assert trainer.global_step == 1  # all samples are one pack, the rest of the step is empty
    whole, _ = fit(sums, *pair, batch_size=40)
    for branch in ("strong", "weak"):
        for name, weight in weights(whole, branch).items():
            torch.testing.assert_close(weights(packed, branch)[name], weight, rtol=1e-3, atol=1e-5)
        assert any(
            not torch.allclose(weights(padded, branch)[name], weight, rtol=1e-3, atol=1e-5)
            for name, weight in weights(whole, branch).items()
        )


def test_a_frozen_weak_branch_stays_as_it_is(sums: Path, pair: tuple[Path, Path]) -> None:
    module, _ = fit(sums, *pair, train_weak=False)
    before = AutoModelForCausalLM.from_pretrained(pair[1])
    for name, weight in before.named_parameters():
        assert torch.equal(module.branches["weak"].get_parameter(name), weight)
        assert module.branches["weak"].get_parameter(name).grad is None


def test_without_a_weak_branch_it_is_plain_sft(sums: Path, pair: tuple[Path, Path]) -> None:
    module, trainer = fit(sums, pair[0], None, lam=1.0)
    assert set(module.branches) == {"strong"}
    assert {"val/loss", "val/strong_loss"} <= trainer.logged_metrics.keys()
    assert trainer.logged_metrics["val/loss"] == trainer.logged_metrics["val/strong_loss"]


def test_validation_counts_tokens(sums: Path, pair: tuple[Path, Path]) -> None:
    module, trainer = fit(sums, *pair, lam=0.4)
    data: WeakDrivenDataModule = trainer.datamodule  # type: ignore[attr-defined]
    tokenizer = data.tokenizer
    end = end_of_turn(tokenizer)
    rows = {f"{n} + {n * n}": f"{n + n * n}" * (1 + n % 5) for n in range(40)}
    kept = {row["idx"] for row in data.val_samples}
    samples = [
        encode(tokenizer, [{"role": "user", "content": question}], answer, end)
        for n, (question, answer) in enumerate(rows.items())
        if n in kept
    ]
    batch = collate(samples, [0] * len(samples), 0, 1)
    with torch.no_grad():
        z = [
            module.branches[name](
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
            ).logits.double()
            for name in ("strong", "weak")
        ]
    losses = {"loss": 0.4 * z[0] + 0.6 * z[1], "strong_loss": z[0], "weak_loss": z[1]}
    for name, logits in losses.items():
        expected = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"].flatten()
        )
        assert trainer.logged_metrics[f"val/{name}"].item() == pytest.approx(
            expected.item(), rel=1e-5
        )


@pytest.mark.parametrize("lam", [-0.1, 1.5])
def test_lam_is_a_share(lam: float) -> None:
    with pytest.raises(UserError, match=r"model.lam"):
        WeakDrivenModule(ModelSource("x"), lam=lam)


def test_bfloat16_leaves_rotary_frequencies_exact(sums: Path, pair: tuple[Path, Path]) -> None:
    # rounded, they would displace position 4,000 by several radians from what inference computes
    module, _ = fit(sums, *pair, precision="bf16-true", max_steps=1)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    before = AutoModelForCausalLM.from_pretrained(pair[0])
    for name, buffer in before.named_buffers():
        torch.testing.assert_close(module.strong.get_buffer(name), buffer, rtol=0, atol=0)


def test_a_weak_branch_of_another_hidden_size(sums: Path, make_branch: Callable[..., Path]) -> None:
    module, _ = fit(sums, make_branch(hidden_size=64), make_branch())
    assert module.strong.config.hidden_size == 64


@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_every_architecture_fits_exports_and_reloads(
    config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase, sums: Path, tmp_path: Path
) -> None:
    for seed, name in enumerate(("strong", "weak")):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    module, _ = fit(sums, tmp_path / "strong", tmp_path / "weak", max_steps=2)
    export_model(module.strong, gather_weights(module.strong), tokenizer, tmp_path / "after", {})
    before, after = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("strong", "after")
    )
    ids = torch.arange(2, 14).view(2, 6)
    with torch.no_grad():
        trained = module.strong.eval()(ids).logits
        assert torch.equal(after(ids).logits, trained)
        assert not torch.equal(before(ids).logits, trained)


def test_a_loss_that_is_not_finite_ends_the_run(sums: Path, pair: tuple[Path, Path]) -> None:
    with pytest.raises(UserError) as error:
        fit(sums, *pair, micro_batch_size=4, optimizer=partial(torch.optim.SGD, lr=float("nan")))
    (line,) = error.value.lines()
    assert re.match(r"train/loss is (nan|inf) in optimizer step 2, from the samples with idx", line)
    named = json.loads(re.findall(r"\[.*?\]", line)[0])
    assert 0 < len(named) <= 8 and set(named) <= set(range(40))


def test_weights_that_are_not_finite_are_not_saved(
    sums: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    module, trainer = fit(sums, *pair, max_steps=1)
    trainer.strategy.connect(module)
    with torch.no_grad():
        next(module.strong.parameters())[0] = torch.nan
    with pytest.raises(UserError, match="weights are not finite after optimizer step 1"):
        trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert not list(tmp_path.glob("*.ckpt"))


class _Batches(pl.Callback):
    """Keeps what a validation adds up: each batch's losses, unrounded, and its tokens."""

    def __init__(self) -> None:
        self.sums = dict.fromkeys(("loss", "strong_loss", "weak_loss"), 0.0)
        self.tokens = self.batches = self.forwards = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        assert isinstance(pl_module, WeakDrivenModule)
        losses = pl_module.validation_losses

        def kept(batch: Any) -> dict[str, torch.Tensor]:
            found = losses(batch)
            for name, value in found.items():
                self.sums[name] += value.item() * batch["denominator"]
            self.tokens += batch["denominator"]
            self.batches += 1
            return found

        pl_module.validation_losses = kept  # type: ignore[method-assign]

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, WeakDrivenModule)
        for branch in pl_module.branches.values():
            branch.base_model.register_forward_pre_hook(self._count)  # type: ignore[union-attr]

    def _count(self, *_: Any) -> None:
        self.forwards += 1


@pytest.mark.parametrize("precision", ["bf16-true", "32-true"])
def test_validation_sums_in_float64_and_reads_each_branch_once(
    precision: Any, write_rows: Callable[..., Path], pair: tuple[Path, Path]
) -> None:
    rows = [{"instruction": f"{n}", "output": f"{n}" * (1 + n % 3)} for n in range(520)]
    sources = ModelSource(pair[0]), ModelSource(pair[1])
    data = every_sample_once(
        write_rows(rows),
        *sources,
        val_fraction=0.99,
        batch_size=1,
        micro_batch_size=1,
    )
    seen = _Batches()
    trainer = pl.Trainer(
        accelerator="cpu",
        precision=precision,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[seen],
    )
    module = WeakDrivenModule(*sources, dynamics=Dynamics("off"))
    (logged,) = trainer.validate(module, data, verbose=False)
    assert seen.batches >= 500
    assert seen.forwards == 2 * seen.batches
    for name, total in seen.sums.items():
        assert logged[f"val/{name}"] == pytest.approx(total / seen.tokens, rel=1e-6, abs=0)


class _Spoil(pl.Callback):
    """Makes one gradient of the third step what it is told to, and keeps the weights before it."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.before: dict[str, torch.Tensor] = {}

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any
    ) -> None:
        if trainer.global_step == 2 and not self.before:
            self.before = gather_weights(pl_module)
            norm = pl_module.branches["strong"].base_model.norm  # type: ignore[index,union-attr]
            norm.register_full_backward_hook(
                lambda *_: (torch.full_like(_[1][0], self.value), *_[1][1:])
            )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("strategy", ["plain", "zero1", "zero2", "zero3"])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    strategy: str, value: float, sums: Path, pair: tuple[Path, Path]
) -> None:
    """Nor one so large that clipping cannot tell its norm."""
    spoil = _Spoil(value)
    stage: Any = int(strategy[-1]) if strategy[-1].isdigit() else None
    trainer = pl.Trainer(
        accelerator="cpu",
        strategy="auto" if stage is None else DeepSpeed(stage),
        max_epochs=1,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[spoil],
    )
    sources = ModelSource(pair[0]), ModelSource(pair[1])
    module = WeakDrivenModule(*sources)
    data = every_sample_once(sums, *sources, micro_batch_size=4)
    with pytest.raises(
        UserError, match=r"the norm of the gradient is (nan|inf) in optimizer step 3"
    ) as error:
        trainer.fit(module, data)
    (line,) = error.value.lines()
    assert "the weights are those of the step before" in line and re.search(r"idx \[\d+", line)
    for name, weight in gather_weights(module).items():
        assert torch.equal(weight, spoil.before[name])
