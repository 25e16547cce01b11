"""A weak branch that does not train: nothing is computed, kept or stored for it in vain."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import pytest
import torch
from conftest import every_sample_once
from lightning.pytorch.callbacks import ModelCheckpoint
from transformers import AutoModelForCausalLM

from wdl.branches.whole_weights import gather_weights
from wdl.config.paths import ModelSource
from wdl.errors import UserError
from wdl.training.deepspeed import DeepSpeed
from wdl.training.weak_driven import WeakDrivenModule


def fit(
    data: Path,
    pair: tuple[Path, Path],
    steps: int,
    stage: Literal[1, 2] = 2,
    resumed: Path | None = None,
    weak_dtype: Literal["bfloat16"] | None = None,
    watch: Callable[[WeakDrivenModule], None] = lambda module: None,
) -> tuple[WeakDrivenModule, pl.Trainer]:
    """`steps` steps on 40 rows; a checkpoint after the second in the current folder."""

    class Watch(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            assert isinstance(pl_module, WeakDrivenModule)
            watch(pl_module)

    strong, weak = map(ModelSource, pair)
    module = WeakDrivenModule(
        strong, weak, train_weak=False, weak_dtype=weak_dtype, gradient_checkpointing=True
    )
    datamodule = every_sample_once(data, strong, weak)
    trainer = pl.Trainer(
        strategy=DeepSpeed(stage=stage),
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        callbacks=[ModelCheckpoint(".", "{step}", every_n_train_steps=2, save_top_k=-1), Watch()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule, ckpt_path=None if resumed is None else str(resumed))
    return module, trainer


def stored_names(checkpoint: Path) -> list[str]:
    """Names of all weights in a checkpoint, by whatever it says of them."""
    names: list[str] = []
    for file in checkpoint.rglob("*.pt"):
        state = torch.load(file, weights_only=False)
        names += [*state.get("module", {}), *(state.get("frozen_param_fragments") or {})]
        names += [name for group in state.get("param_shapes") or [] for name in group]
    return names


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("tied", [False, True])
def test_checkpoints_leave_it_out_and_resume(
    sums: Path, make_branch: Callable[..., Path], tmp_path: Path, stage: Literal[1, 2], tied: bool
) -> None:
    pair = tuple(make_branch(seed, tie_word_embeddings=tied) for seed in (1, 2))
    whole, _ = fit(sums, pair, 4, stage)  # type: ignore[arg-type]
    checkpoint = tmp_path / "step=2.ckpt"
    names = stored_names(checkpoint)
    assert any(name.startswith("branches.strong.") for name in names)
    assert not any("branches.weak." in name for name in names)
    resumed, _ = fit(sums, pair, 4, stage, resumed=checkpoint)  # type: ignore[arg-type]
    for ours, theirs in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_no_graph_no_gradient_no_optimizer_state(sums: Path, pair: tuple[Path, Path]) -> None:
    graphs: list[bool] = []
    optimised: list[int] = []

    def watch(module: WeakDrivenModule) -> None:
        (optimizer,) = module.trainer.optimizers
        optimised.extend(p.numel() for group in optimizer.param_groups for p in group["params"])
        for branch in module.branches.values():
            branch.get_submodule("model.embed_tokens").register_forward_hook(
                lambda *output: graphs.append(output[-1].requires_grad)
            )

    module, _ = fit(sums, pair, 2, watch=watch)
    assert set(graphs[:2]) == {False, True} and "weak" in module.branches
    assert all(parameter.grad is None for parameter in module.branches["weak"].parameters())
    assert not module.branches["weak"].training and module.strong.training
    assert sum(optimised) == sum(parameter.numel() for parameter in module.strong.parameters())


@pytest.mark.parametrize("stage", [1, 2])
def test_it_may_be_narrower(sums: Path, pair: tuple[Path, Path], stage: Literal[1, 2]) -> None:
    module, trainer = fit(sums, pair, 5, stage, weak_dtype="bfloat16")
    _, wide = fit(sums, pair, 5, stage)
    assert "weak" in module.branches
    assert {p.dtype for p in module.branches["weak"].parameters()} == {torch.bfloat16}
    assert {p.dtype for p in module.strong.parameters()} == {torch.float32}
    before = AutoModelForCausalLM.from_pretrained(pair[1], dtype=torch.bfloat16)
    kept = gather_weights(module.branches["weak"])
    assert all(torch.equal(kept[name], weight) for name, weight in before.state_dict().items())
    losses = [run.logged_metrics["val/weak_loss"].item() for run in (trainer, wide)]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_a_resumed_run_has_the_same_weak_branch_and_the_same_samples(
    sums: Path, make_branch: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)  # of a fixture that others share
    strong, weak = make_branch(1), make_branch(2)
    fit(sums, (strong, weak), 2)
    checkpoint = tmp_path / "step=2.ckpt"
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    with pytest.raises(UserError, match="trained on other samples, or in another order"):
        fit(sums, (strong, weak), 4, resumed=checkpoint)
    monkeypatch.delenv("PL_GLOBAL_SEED")
    with pytest.raises(UserError, match=r"is not what the checkpoint was trained with, .* SHA-256"):
        fit(sums, (strong, make_branch(3)), 4, resumed=checkpoint)
    fit(sums, (strong, weak), 3, resumed=checkpoint)
