"""Packs: the same losses and gradients as the samples alone, and no sample that sees another."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from wdl.branches.loading import load_branch
from wdl.branches.packed_attention import _in_one_dtype
from wdl.branches.reading import hidden_states, output_head
from wdl.data.batches import Batch, collate, collate_pack
from wdl.data.encoding import Encoded

LENGTHS = [7, 12, 1, 5]
OTHER_MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "gemma3_text": {"sliding_window": 4, "head_dim": 16},  # has layers with and without a window
}


def samples(seed: int = 0) -> list[Encoded]:
    rng = torch.Generator().manual_seed(seed)
    return [
        {
            "input_ids": torch.randint(250, (n,), generator=rng).tolist(),
            "prompt_length": max(1, n // 2),
        }
        for n in LENGTHS
    ]


def states(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    return hidden_states(model, batch["input_ids"], batch["attention_mask"], batch.get("segments"))


def loss_and_gradients(model: PreTrainedModel, batches: list[Batch]) -> tuple[float, dict]:
    model.zero_grad()
    total = 0.0
    for batch in batches:
        logits = states(model, batch) @ output_head(model).weight.T
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum"
        )
        loss.backward()
        total += loss.item()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return total, gradients


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_pack_has_the_loss_and_gradients_of_its_samples(
    checkpointing: bool, make_branch: Callable[..., Path]
) -> None:
    model = load_branch(
        str(make_branch(num_attention_heads=4, num_key_value_heads=2)), torch.float64
    )
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    alone = loss_and_gradients(model, [collate([sample], [0], 0, 1) for sample in samples()])
    packed = loss_and_gradients(model, [collate_pack(samples(), range(4), 0, 1)])
    assert packed[0] == pytest.approx(alone[0], rel=1e-12)
    assert packed[1].keys() == alone[1].keys()
    for name, gradient in alone[1].items():
        torch.testing.assert_close(packed[1][name], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", OTHER_MODELS)
def test_other_models(kind: str) -> None:
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind,
        **{
            **{
                "vocab_size": 256,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 6,
            },
            **{"num_attention_heads": 2, "num_key_value_heads": 1, **OTHER_MODELS[kind]},
        },
    )
    model = AutoModelForCausalLM.from_config(config).double().eval()
    with torch.no_grad():
        alone = [states(model, collate([sample], [0], 0, 1))[0] for sample in samples()]
        packed = states(model, collate_pack(samples(), range(4), 0, 1))[0]
    torch.testing.assert_close(packed, torch.cat(alone), rtol=1e-10, atol=1e-10)


def test_no_sample_sees_another(pair: tuple[Path, Path]) -> None:
    model = load_branch(str(pair[0])).eval()
    changed = samples()
    changed[0], changed[2] = samples(seed=1)[0], samples(seed=1)[2]
    with torch.no_grad():
        first, second = (
            states(model, collate_pack(each, range(4), 0, 1))[0].split(LENGTHS)
            for each in (samples(), changed)
        )
    assert [torch.equal(a, b) for a, b in zip(first, second, strict=True)] == [
        *(False, True),
        *(False, True),
    ]


def test_a_branch_that_reads_packs_refuses_anything_else(pair: tuple[Path, Path]) -> None:
    model = load_branch(str(pair[0]))
    states(model, collate_pack(samples(), range(4), 0, 1))
    with pytest.raises(RuntimeError, match="needs the borders of its segments"):
        states(model, collate(samples(), range(4), 0, 1))


def test_an_empty_pack_counts_for_nothing(pair: tuple[Path, Path]) -> None:
    batch = collate_pack([], [], pad_token=0, denominator=9)
    assert batch["input_ids"].shape == (1, 1)
    loss, gradients = loss_and_gradients(load_branch(str(pair[0])), [batch])
    assert loss == 0
    assert not any(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("autocast", [True, False])
def test_a_norm_that_autocast_lets_promote_does_not_cost_the_kernel(autocast: bool) -> None:
    norm = Qwen3RMSNorm(16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = nn.functional.linear(torch.ones(1, 2, 4, 16), torch.eye(16))
        query = norm(value)
        assert (query.dtype != value.dtype) == autocast  # of which the kernel takes one alone
        dtypes = {operand.dtype for operand in _in_one_dtype(query, query, value)}
    assert dtypes == {torch.bfloat16 if autocast else torch.float32}
