"""Weights in 4 bits: QLoRA's formula, and an adapter that trains, resumes and is merged."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import CONFIGS
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from wdl.branches import quantised
from wdl.branches.lora import Lora, is_adapter, load_adapted
from wdl.branches.quantised import BLOCK, QuantisedLinear, check_quantised
from wdl.cli import main
from wdl.config.paths import ModelSource
from wdl.data.batches import collate
from wdl.errors import UserError
from wdl.fit import run
from wdl.metrics.flops import Products
from wdl.training.run_folder import RunFolder
from wdl.training.weak_driven import WeakDrivenModule

# Dettmers et al., appendix E: quantiles of a normal distribution, with a 0
NF4 = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635]
NF4 += [-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725]
NF4 += [0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941]
NF4 += [0.7229568362236023, 1.0]
ADAPTER = Lora(rank=2, alpha=6.0, quantised=True)


def nearest(weight: Tensor) -> Tensor:
    """Each value's nearest among the 16, scaled by the largest of its block."""
    blocks = weight.double().reshape(-1, BLOCK)
    scale = blocks.abs().amax(1, keepdim=True)
    codes = torch.tensor(NF4, dtype=torch.float64)
    chosen = (blocks / scale).unsqueeze(-1).sub(codes).abs().argmin(-1)
    return (codes[chosen] * scale).reshape(weight.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weight_and_gradient_are_those_of_the_formula(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(128, 48, bias=True).to(dtype)
    held = QuantisedLinear(layer)
    rtol, atol = (1e-5, 1e-6) if dtype == torch.float32 else (8e-3, 1e-2)
    torch.testing.assert_close(held.weight.double(), nearest(layer.weight), rtol=rtol, atol=1e-6)
    states = torch.randn(5, 128, dtype=dtype, requires_grad=True)
    out = held(states)
    expected = nn.functional.linear(states, held.weight, layer.bias)
    torch.testing.assert_close(out, expected, rtol=rtol, atol=atol)
    (gradient,) = torch.autograd.grad(out.sum(), states)
    torch.testing.assert_close(gradient, held.weight.sum(0).expand(5, -1), rtol=rtol, atol=1e-6)
    assert held.state_dict().keys() == {"bias"}
    # a strategy that casts a model leaves the scales alone
    before = held.weight.float()
    held.half()
    assert torch.equal(held.weight.float(), before)


def test_both_branches_are_the_quantised_model(pair: tuple[Path, Path]) -> None:
    source = ModelSource(pair[0])
    module = WeakDrivenModule(source, source, train_weak=False, lora=ADAPTER)
    module.configure_model()
    batch = collate([{"input_ids": [5, 9, 7, 3], "prompt_length": 1}], [0], 0, 3)
    strong, weak = (module.hidden(name, batch)[0] for name in ("strong", "weak"))
    assert torch.equal(strong, weak)  # an adapter begins at nothing
    whole = AutoModelForCausalLM.from_pretrained(source)
    exact = whole.model(torch.tensor([[5, 9, 7, 3]])).last_hidden_state[0]
    assert 0 < (strong - exact).norm() / exact.norm() < 0.5
    module.loss(batch).backward()
    trained = {name for name, weight in module.named_parameters() if weight.grad is not None}
    assert trained and all(map(is_adapter, trained))
    unquantised = load_adapted(Lora(rank=2, alpha=6.0), source, source, torch.float32)
    assert Products.of(module.strong) == Products.of(unquantised)


def test_a_run_is_merged_into_the_weights_as_they_were(
    sums: Path, make_branch: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = make_branch(seed=7)
    flags = ["--config", str(CONFIGS / "joint.yaml"), f"--model.strong={base}", "--runs=runs"]
    flags += [f"--model.weak={base}", f"--data.path={sums}", "--model.train_weak=false"]
    flags += ["--model.lora.rank=2", "--model.lora.alpha=6", "--model.lora.quantised=true"]
    flags += ["--data.batch_size=8", "--data.micro_batch_size=4", "--evaluation.benchmark=null"]
    flags += ["--evaluation.sft_control=false", "--data.selection.weights=uniform"]
    run(["fit", *flags, "--trainer.max_steps=3"])
    run(["fit", *flags, "--trainer.max_steps=5", "--ckpt_path=last"])
    folder = RunFolder.latest(Path("runs"), "joint")
    assert folder is not None
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    after = AutoModelForCausalLM.from_pretrained(folder.strong).state_dict()
    adapter = load_file(folder.strong / "adapter" / "adapter_model.safetensors")
    moved = 0
    for name, weight in before.items():
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        expected = weight
        if f"{layer}.lora_A.weight" in adapter:
            a, b = (adapter[f"{layer}.lora_{part}.weight"].double() for part in "AB")
            expected = (weight.double() + 6 / 2 * b @ a).float()
            moved += not torch.equal(expected, weight)
        torch.testing.assert_close(after[name], expected, rtol=1e-6, atol=1e-7)
    assert moved
    (checkpoint,) = (folder.path / "checkpoints").glob("*.ckpt")
    main(["export", "--ckpt", str(checkpoint), "--out", "again"])
    again = AutoModelForCausalLM.from_pretrained("again").state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in again.items())
    for name, value in (("quantised", "false"), ("alpha", "12")):  # as its weights fit all the same
        for verb in ("fit", "validate"):
            with pytest.raises(UserError, match=f"trained with model.lora.{name} .*, this run has"):
                run([verb, *flags, f"--model.lora.{name}={value}", "--ckpt_path=last"])
    flags += ["--trainer.strategy.class_path=wdl.training.deepspeed.DeepSpeed"]
    with pytest.raises(UserError, match=r"^model.lora.quantised: ZeRO stage 3"):
        run(["fit", *flags, "--name=other", "--trainer.strategy.stage=3"])


def test_what_quantises_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantised, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"^model.lora.quantised: .* pip install 'wdl\[qlora\]'"):
        check_quantised()
