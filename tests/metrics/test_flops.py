"""FLOPs: against a count by hand, torch's own counter, and the passes that make up a step."""

from typing import Any

import pytest
import torch
from conftest import ARCHITECTURES, SIZES
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, Gemma3TextConfig, MixtralConfig, Qwen3Config
from transformers.models.qwen3_moe import Qwen3MoeConfig

from wdl.branches.lora import Lora, add_adapter
from wdl.metrics.flops import Products, find_card, peak_flops, seen_pairs

LENGTH = 24


def made(config: Any) -> Any:
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def by_torch(model: Any, backward: bool) -> int:
    """What torch counts of one sample whose scores are all computed, the masked ones too."""
    ids = torch.zeros(1, LENGTH, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        loss = model(input_ids=ids, use_cache=False).logits.sum()
        if backward:
            loss.backward()
    return counter.get_total_flops()


def test_a_count_by_hand() -> None:
    products = Products.of(made(Qwen3Config(**SIZES)))
    # q, k, v, o of 2 heads and 1 key head of 16, and gate, up, down of 64; in 2 layers
    weights = 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64)
    assert (products.token, products.head) == (2 * weights, 2 * 300 * 32)
    assert products.scores == {None: 2 * 2 * (16 + 16) * 2}
    # samples of 3 and 2 tokens: 6 and 3 pairs of a token and one that it sees
    assert products.step([3, 2], 4, "nothing") == 5 * 2 * weights + 4 * 2 * 300 * 32 + 9 * 256


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_torch_counts_the_same_forward(name: str) -> None:
    model = made(ARCHITECTURES[name])
    products = Products.of(model)
    whole = sum(products.scores.values()) * LENGTH**2
    assert by_torch(model, backward=False) == LENGTH * (products.token + products.head) + whole


def test_a_trained_branch_costs_three_passes() -> None:
    model = made(ARCHITECTURES["qwen3-untied"])
    model.get_input_embeddings().weight.requires_grad_(False)
    products = Products.of(model)
    masked = sum(products.scores.values()) * (LENGTH**2 - seen_pairs(LENGTH))
    # eager attention asks for the gradient of its first layer's input, which nobody reads
    spare = 2 * LENGTH * (32 * 32 + 2 * 32 * 16)
    ours = products.step([LENGTH], LENGTH, "all") + 3 * masked
    assert by_torch(model, backward=True) in (ours, ours - spare)


def test_an_adapter_costs_two_passes_and_its_own_three() -> None:
    model = made(ARCHITECTURES["qwen3-tied"])
    plain = Products.of(model)
    add_adapter(model, Lora(rank=2))
    adapted = Products.of(model)
    assert (adapted.token, adapted.head, adapted.scores) == (plain.token, plain.head, plain.scores)
    own = sum(p.numel() for n, p in model.named_parameters() if p.requires_grad)
    assert adapted.adapter == 2 * own
    scores = plain.step([LENGTH], 0, "nothing") - LENGTH * plain.token
    assert adapted.step([LENGTH], 7, "adapter") == (
        2 * (LENGTH * plain.token + 7 * plain.head) + 3 * (scores + LENGTH * 2 * own)
    )


def test_a_window_hides_what_lies_before_it() -> None:
    kinds = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(**SIZES, sliding_window=4, layer_types=kinds)
    products = Products.of(made(config))
    assert products.scores == {4: 128, None: 128}
    assert seen_pairs(6, 4) == 1 + 2 + 3 + 4 + 4 + 4
    assert seen_pairs(3, 4) == 1 + 2 + 3


@pytest.mark.parametrize("kind", [Qwen3MoeConfig, MixtralConfig])
def test_of_experts_those_count_that_a_token_goes_to(kind: type) -> None:
    sizes = {**SIZES, "moe_intermediate_size": 64, "num_experts_per_tok": 2}
    few, many = (
        Products.of(made(kind(**sizes, num_experts=n, num_local_experts=n))) for n in (4, 8)
    )
    routers = 2 * 2 * 32 * 4  # of 2 layers, for 4 experts more
    assert many.token - few.token == routers
    attention = 2 * 2 * (32 * 32 + 2 * 32 * 16 + 32 * 32)
    assert few.token == attention + routers + 2 * 2 * 2 * 3 * 32 * 64


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("AMD Instinct MI300X", 1307.4e12),
        ("h200", 989.4e12),
        ("NVIDIA A10G", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce GTX 1080", None),
    ],
)
def test_peaks_by_name(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak


def test_memory_tells_two_cards_of_a_name_apart() -> None:
    sizes = [find_card(f"NVIDIA A100-SXM4-{size}GB") for size in (40, 80)]
    assert [card and card.gib for card in sizes] == [39.4, 79.1]
