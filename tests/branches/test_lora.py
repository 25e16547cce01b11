"""A pair that shares its weights, against two separate models: merged adapter and base."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import pytest
import torch
from conftest import every_sample_once
from lightning.pytorch.callbacks import ModelCheckpoint
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from wdl.callbacks.export import StrongExport

from wdl.branches import lora as lora_module
from wdl.branches.loading import load_branch
from wdl.branches.lora import FOLDER, Lora, is_adapter, merge_adapter
from wdl.branches.whole_weights import gather_weights
from wdl.config.paths import InputPath, ModelSource
from wdl.data.batches import Batch, collate, collate_pack
from wdl.data.encoding import Encoded
from wdl.errors import UserError
from wdl.metrics.dynamics import MeanDynamics
from wdl.training.deepspeed import DeepSpeed
from wdl.training.export import export_checkpoint, export_model
from wdl.training.weak_driven import WeakDrivenModule

LORA = Lora(rank=4, alpha=6)
SHARED: dict[str, Any] = {"train_weak": False, "lora": LORA}


def shared(base: Path, strong: Path | None = None, **settings: Any) -> WeakDrivenModule:
    module = WeakDrivenModule(ModelSource(strong or base), ModelSource(base), **SHARED | settings)
    module.configure_model()
    return module


def teach(module: WeakDrivenModule) -> None:
    """Give the adapter weights that change the logits."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if is_adapter(name):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 5)


def write_merged(module: WeakDrivenModule, folder: Path, tokenizer: Any) -> Path:
    weights = dict(module.strong.state_dict())
    export_model(module.strong, weights, tokenizer, folder, {"frozen": module.base}, lora=LORA)
    return folder


def make_batch(packed: bool = False) -> Batch:
    samples: list[Encoded] = [
        {"input_ids": list(range(4, 4 + length)), "prompt_length": 3} for length in (9, 6)
    ]
    return (collate_pack if packed else collate)(samples, [0, 1], 0, 9)


def run(module: WeakDrivenModule, packed: bool = False) -> tuple[torch.Tensor, dict[str, Any]]:
    """Loss of a batch after its backward pass, and the means of all dynamics."""
    record = MeanDynamics(full=True, weak=True)
    module.lam = 0.4
    (loss,) = module(make_batch(packed), record)
    loss.backward()
    return loss, record.compute().means


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_it_equals_two_separate_models(
    tied: bool,
    packed: bool,
    checkpointing: bool,
    make_branch: Callable[..., Path],
    tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path,
) -> None:
    base = make_branch(seed=1, tie_word_embeddings=tied)
    ours = shared(base, gradient_checkpointing=checkpointing)
    teach(ours)
    merged = write_merged(ours, tmp_path / "merged", tokenizer)
    apart = WeakDrivenModule(ModelSource(merged), ModelSource(base), train_weak=False)
    apart.configure_model()
    (loss, dynamics), (expected, expected_dynamics) = run(ours, packed), run(apart, packed)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert dynamics["margin/strong"] != pytest.approx(dynamics["margin/weak"].item(), rel=1e-2)
    torch.testing.assert_close(dynamics, expected_dynamics, rtol=1e-4, atol=1e-6, equal_nan=True)
    weights = dict(ours.strong.named_parameters())
    for name, parameter in weights.items():
        assert (parameter.grad is not None) == is_adapter(name)
        layer, is_a, _ = name.partition(".lora_A.")
        if is_a:  # W + s·B·A, so dA = s·Bᵀ·dW and dB = s·dW·Aᵀ
            a, b = parameter, weights[f"{layer}.lora_B.default.weight"]
            change = apart.strong.get_parameter(f"{layer}.weight").grad
            assert change is not None and b.grad is not None
            scaled = LORA.alpha / LORA.rank * change
            torch.testing.assert_close(a.grad, b.T @ scaled, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(b.grad, scaled @ a.T, rtol=1e-4, atol=1e-6)


def test_a_fresh_adapter_changes_nothing(pair: tuple[Path, Path]) -> None:
    _, means = run(shared(pair[0]))
    for name, value in means.items():
        quantity, _, branch = name.partition("/")
        if branch == "weak":
            assert means[f"{quantity}/strong"] == value
    assert means["hard_negatives/share"] == 0 and means["agreement/weak_strong"] == 1


def test_the_weak_branch_is_in_evaluation_mode(pair: tuple[Path, Path]) -> None:
    module = shared(pair[0], lora=Lora(dropout=0.5))
    teach(module)
    modes: list[bool] = []
    module.strong.base_model.register_forward_hook(lambda *run: modes.append(run[0].training))
    first, _ = run(module)
    second, _ = run(module)
    assert modes == [True, False] * 2
    assert first != second  # other masks


def fit(
    data: Path, base: Path, steps: int, stage: Literal[1, 2], resumed: Path | None = None
) -> WeakDrivenModule:
    """`steps` steps on 40 rows; a checkpoint and, unless resumed, the export in this folder."""
    source = ModelSource(base)
    module = WeakDrivenModule(source, source, **SHARED)
    datamodule = every_sample_once(data, source, source, micro_batch_size=4)
    trainer = pl.Trainer(
        strategy=DeepSpeed(stage=stage),
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        callbacks=[
            ModelCheckpoint(".", "{step}", every_n_train_steps=2, save_top_k=-1),
            *([StrongExport()] if resumed is None else []),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    pl.seed_everything(1)
    trainer.fit(module, datamodule, ckpt_path=None if resumed is None else str(resumed))
    return module


@pytest.mark.parametrize("stage", [1, 2])
def test_checkpoints_hold_the_adapter_and_resume(
    stage: Literal[1, 2], sums: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    whole = fit(sums, pair[0], 4, stage)
    adapter = {n: weight for n, weight in whole.named_parameters() if is_adapter(n)}
    assert {n for n, p in whole.named_parameters() if p.requires_grad} == adapter.keys()
    assert all(weight.any() for weight in adapter.values())  # B has left 0
    checkpoint = tmp_path / "step=2.ckpt"
    (file,) = checkpoint.rglob("*model_states.pt")
    stored = torch.load(file, weights_only=False)
    assert {n for n in stored["module"] if n.startswith("branches.")} == adapter.keys()
    assert not stored.get("frozen_param_fragments")
    resumed = fit(sums, pair[0], 4, stage, checkpoint)
    ours, theirs = gather_weights(whole.strong), gather_weights(resumed.strong)
    assert all(torch.equal(theirs[name], weight) for name, weight in ours.items())
    before = AutoModelForCausalLM.from_pretrained(pair[0]).state_dict()
    plain = {n.replace(".base_layer.", "."): weight for n, weight in ours.items()}
    assert all(torch.equal(plain[name], weight) for name, weight in before.items())
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "strong").state_dict()
    expected = merge_adapter(ours, LORA)
    assert all(torch.equal(expected[name], weight) for name, weight in exported.items())
    assert (tmp_path / "strong" / FOLDER / "adapter_model.safetensors").is_file()


def test_an_adapter_is_exported_where_its_base_has_moved(
    sums: Path, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    base = Path(shutil.copytree(pair[0], tmp_path / "base"))
    fit(sums, base, 2, 2)
    base.rename(tmp_path / "moved")
    checkpoint, out = InputPath(tmp_path / "step=2.ckpt"), tmp_path / "out"
    with pytest.raises(UserError, match=r"\(give --model\)"):
        export_checkpoint(checkpoint, str(out))
    with pytest.raises(UserError, match=f"did not train are not in {base} or {pair[1]}; give"):
        export_checkpoint(checkpoint, str(out), model=ModelSource(pair[1]))
    export_checkpoint(checkpoint, str(out), model=ModelSource(tmp_path / "moved"))
    live, ours = (load_file(f / "model.safetensors") for f in (tmp_path / "strong", out))
    assert all(torch.equal(ours[name], weight) for name, weight in live.items())


def test_what_was_exported_is_taken_up_again(
    pair: tuple[Path, Path], tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    module = shared(pair[0])
    teach(module)
    folder = write_merged(module, tmp_path / "strong", tokenizer)
    ids = torch.arange(12).view(2, 6)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    adapted = PeftModel.from_pretrained(load_branch(str(pair[0])), str(folder / FOLDER))
    again = shared(pair[0], folder)
    with torch.no_grad():
        expected = module.strong(ids).logits
        torch.testing.assert_close(plain(ids).logits, expected)
        assert torch.equal(adapted.eval()(input_ids=ids).logits, expected)
        assert torch.equal(again.strong(ids).logits, expected)
    with pytest.raises(UserError, match="with rank 4 and alpha 6"):
        shared(pair[0], folder, lora=Lora(rank=8))
    with pytest.raises(UserError, match=f"is an adapter of {pair[0]}"):
        shared(pair[1], folder)
    with pytest.raises(UserError, match="target_modules: they differ from those"):
        shared(pair[0], folder, lora=Lora(4, 6, target_modules=["q_proj"]))


def test_merging_sums_in_float32() -> None:
    weights = {
        "q.base_layer.weight": torch.ones(1, 1, dtype=torch.bfloat16),
        "q.lora_A.default.weight": torch.full((1, 1), 1 / 128, dtype=torch.bfloat16),
        "q.lora_B.default.weight": torch.full((1, 1), 0.75, dtype=torch.bfloat16),
    }
    merged = merge_adapter(weights, Lora(rank=1, alpha=1))
    # 1 + 0.75/128 is nearer to 1 + 1/128 than to 1, between which bfloat16 has nothing
    assert merged.keys() == {"q.weight"} and merged["q.weight"].item() == 1 + 1 / 128


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_weak": True}, r"model.train_weak: .* set it to false"),
        ({"pretrained": False}, r"model.pretrained"),
        ({"lora": Lora(rank=0)}, r"rank 0 must be at least 1"),
        ({"lora": Lora(target_modules=["lm_head"])}, r"lm_head is the output head"),
        ({"lora": Lora(target_modules=["embed_tokens"])}, r"embed_tokens is no linear layer"),
        ({"lora": Lora(target_modules=["nothing"])}, r"target_modules: .*nothing"),
    ],
)
def test_what_cannot_be(settings: dict[str, Any], message: str, pair: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=message):
        shared(pair[0], **settings)


def test_branches_of_different_models_share_nothing(pair: tuple[Path, Path]) -> None:
    with pytest.raises(UserError, match=f"{pair[1]} has no folder adapter"):
        shared(*pair)


def test_without_peft(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lora_module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'wdl\[lora\]'"):
        shared(pair[0])
