"""The probe: what training reads rightly is taken, the rest refused by name, nothing touched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from conftest import ARCHITECTURES, SIZES, every_sample_once
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from wdl.branches.probe import probe
from wdl.config.paths import ModelSource
from wdl.errors import UserError
from wdl.training.deepspeed import DeepSpeed
from wdl.training.weak_driven import WeakDrivenModule

BLOOM: dict[str, Any] = {"hidden_size": 32, "n_layer": 2, "n_head": 2}
DTYPES = [torch.float32, torch.bfloat16]
HYBRID = {
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}
LAYERS = ["linear_attention", "full_attention"]
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
# what the losses cannot know, whatever the samples look like
OTHER_LOGITS: list[tuple[str, dict[str, Any]]] = [
    ("gemma2", SIZES),  # caps far above what random weights make
    ("granite", {**SIZES, "logits_scaling": 1.01}),
    ("cohere", {**SIZES, "logit_scale": 0.5}),
    ("nanochat", SIZES),
]
NO_PACKS: list[tuple[str, dict[str, Any], str]] = [
    ("bloom", BLOOM, "other than those of a sample alone"),
    ("qwen3_next", {**SIZES, **HYBRID, **EXPERTS, "layer_types": LAYERS}, "other than those"),
    ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}, "other than those"),
    ("gpt_oss", {**SIZES, "num_local_experts": 4}, "does not know s_aux"),
    ("gemma2", {**SIZES, "final_logit_softcapping": None}, "does not know softcap"),
    ("stablelm", SIZES, "needs the borders"),
]


def random_model(
    kind: str, sizes: dict[str, Any], dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    torch.manual_seed(0)
    settings = {**sizes, "vocab_size": 300, "pad_token_id": 0}
    config = CONFIG_MAPPING[kind](**settings)
    return AutoModelForCausalLM.from_config(config, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("config", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_known_architectures_are_taken(config: Any, packed: bool, dtype: torch.dtype) -> None:
    probe(AutoModelForCausalLM.from_config(config, dtype=dtype), "it", packed)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "sizes"), OTHER_LOGITS, ids=[kind for kind, _ in OTHER_LOGITS])
def test_other_logits_are_refused(kind: str, sizes: dict[str, Any], dtype: torch.dtype) -> None:
    model = random_model(kind, sizes, dtype)
    with pytest.raises(UserError, match=f"^it: {type(model).__name__} caps, scales or shifts"):
        probe(model, "it", packed=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "sizes", "why"), NO_PACKS, ids=[case[0] for case in NO_PACKS])
def test_what_packing_would_mix_can_still_be_padded(
    kind: str, sizes: dict[str, Any], why: str, dtype: torch.dtype
) -> None:
    model = random_model(kind, sizes, dtype)
    probe(model, "it", packed=False)
    with pytest.raises(UserError, match=f"cannot read packs .*{why}.*leave data.max_tokens out"):
        probe(model, "it", packed=True)


def test_a_model_that_sees_what_follows_is_refused() -> None:
    model = random_model("llama", SIZES)
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    model.config.is_causal = False
    with pytest.raises(UserError, match="LlamaForCausalLM cannot read padded samples"):
        probe(model, "it", packed=False)


def test_a_window_longer_than_the_samples_counts() -> None:
    model = random_model("gemma3_text", {**SIZES, "sliding_window": 4096})
    probe(model, "it", packed=True)
    for layer in model.model.layers:
        layer.self_attn.sliding_window = None
    with pytest.raises(UserError, match="not told of the window"):
        probe(model, "it", packed=True)


def test_dropout_that_packed_attention_does_not_know() -> None:
    model = random_model("llama", {**SIZES, "attention_dropout": 0.1})
    probe(model, "it", packed=False)
    with pytest.raises(UserError, match=r"fails to pack.* in training .*dropout"):
        probe(model, "it", packed=True)


def test_a_fault_in_the_code_of_a_model_is_one_line() -> None:
    model = random_model("llama4_text", {**SIZES, "num_local_experts": 2})
    with pytest.raises(UserError, match=r"Llama4ForCausalLM .*AttributeError") as caught:
        probe(model, "it", packed=False)
    assert len(caught.value.lines()) == 1 and "\n" not in str(caught.value)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["qwen3", "bloom"])
def test_nothing_is_touched(kind: str, packed: bool, training: bool) -> None:
    sizes = BLOOM if kind == "bloom" else SIZES
    model = random_model(kind, {**sizes, "hidden_dropout": 0.5}, torch.bfloat16).train(training)
    attention = model.config._attn_implementation
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    addresses = [weight.data_ptr() for weight in model.parameters()]
    state, dtype = torch.get_rng_state(), torch.get_default_dtype()
    try:
        probe(model, "it", packed)
    except UserError:
        assert kind == "bloom" and packed
    assert torch.equal(torch.get_rng_state(), state) and torch.get_default_dtype() == dtype
    assert model.training == training and model.config._attn_implementation == attention
    assert all(torch.equal(before[name], w) for name, w in model.state_dict().items())
    assert [weight.data_ptr() for weight in model.parameters()] == addresses
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
@pytest.mark.parametrize("kind", ["qwen3", "bloom"])
def test_where_weights_are_divided(
    kind: str, precision: Any, sums: Path, architecture: Path, make_branch: Callable[..., Path]
) -> None:
    source = make_branch()
    if kind == "bloom":
        vocabulary = len(AutoTokenizer.from_pretrained(architecture))
        config = CONFIG_MAPPING[kind](**{**BLOOM, "vocab_size": vocabulary})
        AutoModelForCausalLM.from_config(config).save_pretrained(source)
    module = WeakDrivenModule(ModelSource(source))
    trainer = pl.Trainer(
        strategy=DeepSpeed(stage=3),
        accelerator="cpu",
        precision=precision,
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = every_sample_once(sums, ModelSource(source), max_tokens=4096, micro_batch_size=1)
    if kind == "bloom":
        with pytest.raises(UserError, match="BloomForCausalLM cannot read packs"):
            trainer.fit(module, data)
    else:
        trainer.fit(module, data)
        assert trainer.global_step == 1
