"""Packed attention on CUDA: one call of the kernel a pack, in 16 bits, on what the model has made.

Without a GPU: tensors are faked, so what is seen is what the kernel is given, at a real size.
"""

import inspect
from typing import Any

import pytest
import torch
from fake_cuda import Call, FakeCuda
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AutoModelForCausalLM, Qwen3Config

from wdl.branches import packed_attention as packed
from wdl.branches.reading import hidden_states

TOKENS, LONGEST = 5000, 2500
KERNEL = "torch_attn._varlen_attn.default"
VIEWS = {f"aten.{name}.default" for name in ("unsqueeze", "expand", "permute")} | {
    *("aten.squeeze.dim", "aten.transpose.int", "prim.device.default")
}
OTHERS = {"aten.scaled_dot_product_attention.default", "aten._softmax.default"}
QWEN3_4B: dict[str, Any] = {
    **{"vocab_size": 151_936, "hidden_size": 2560, "intermediate_size": 9728, "head_dim": 128},
    **{"num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 3},
}


def heads(
    cuda: FakeCuda, count: int, size: int = 128, dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """As models make them: [1, heads, tokens, size], the values of a token side by side."""
    return cuda.tensor(1, TOKENS, count, size, dtype=dtype).transpose(1, 2)


def arguments(call: Call) -> dict[str, Any]:
    """What the kernel was given, by name."""
    names = [
        argument.name for argument in torch.ops.torch_attn._varlen_attn.default._schema.arguments
    ]
    return {**dict(zip(names, call.given, strict=False)), **call.options}


@pytest.mark.parametrize("window", [None, 512, LONGEST])
def test_a_pack_is_one_call_of_the_kernel_without_copies(window: int | None) -> None:
    with FakeCuda() as cuda:
        borders = cuda.tensor(4, dtype=torch.int32)
        query, key, value = (heads(cuda, count) for count in (32, 8, 8))
        cuda.calls.clear()
        out, _ = packed.packed_attention(
            nn.Module(), query, key, value, None, 0.1, 0.0, window, borders, LONGEST
        )
    (call,) = cuda.of(KERNEL)
    given = arguments(call)
    assert {each.name for each in cuda.calls} <= VIEWS | {KERNEL}
    assert [tuple(given[name].shape) for name in ("query", "key", "value")] == [
        *((TOKENS, 32, 128), (TOKENS, 8, 128), (TOKENS, 8, 128)),
    ]
    assert given["cu_seq_q"] is borders and given["cu_seq_k"] is borders
    assert (given["max_q"], given["max_k"], given["scale"]) == (LONGEST, LONGEST, 0.1)
    assert given["window_size"] == ([511, 0] if window == 512 else [-1, 0])
    if "enable_gqa" in inspect.signature(varlen_attn).parameters:
        assert given["enable_gqa"]
    assert (tuple(out.shape), out.dtype) == ((1, TOKENS, 32, 128), torch.bfloat16)


@pytest.mark.parametrize(
    ("size", "value_size", "dtype"),
    [
        *((84, 84, torch.bfloat16), (512, 512, torch.float16)),
        *((192, 128, torch.bfloat16), (128, 128, torch.float32)),
    ],
)
def test_what_the_kernel_refuses_goes_segment_by_segment(
    size: int, value_size: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    def attend(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> Tensor:
        seen.append((q.shape[2], q.shape[1], k.shape[1]))
        return q.new_empty(*q.shape[:3], v.shape[3])

    monkeypatch.setattr(packed, "_attend", attend)
    # what is not there cannot be read
    monkeypatch.setattr(packed, "segment_lengths", lambda borders: [2000, 500, 2500])
    with FakeCuda() as cuda:
        borders = cuda.tensor(4, dtype=torch.int32)
        query, key = (heads(cuda, count, size, dtype) for count in (32, 8))
        value = heads(cuda, 8, value_size, dtype)
        out, _ = packed.packed_attention(
            nn.Module(), query, key, value, None, cu_seq_lens_q=borders, max_length_q=LONGEST
        )
    assert not cuda.of(KERNEL)
    assert seen == [(2000, 32, 8), (500, 32, 8), (2500, 32, 8)]
    assert (tuple(out.shape), out.dtype) == ((1, TOKENS, 32, value_size), dtype)


@pytest.mark.parametrize("autocast", [False, True])
def test_every_layer_of_qwen3_reaches_the_kernel_in_16_bits(autocast: bool) -> None:
    with torch.device("meta"):
        stored = torch.float32 if autocast else torch.bfloat16
        model = AutoModelForCausalLM.from_config(Qwen3Config(**QWEN3_4B), dtype=stored)
    before = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", autocast)  # the context would refuse without a GPU
    try:
        with FakeCuda() as cuda:
            cuda.move(model)
            borders = cuda.tensor(4, dtype=torch.int32)
            segments: packed.Segments = {
                "position_ids": cuda.tensor(1, TOKENS, dtype=torch.int64),
                "cu_seq_lens_q": borders,
                "cu_seq_lens_k": borders,
                "max_length_q": LONGEST,
                "max_length_k": LONGEST,
            }
            tokens = cuda.tensor(1, TOKENS, dtype=torch.int64)
            hidden_states(model, tokens, None, segments)
    finally:
        torch.set_autocast_enabled("cuda", before)
    calls = [arguments(call) for call in cuda.of(KERNEL)]
    assert len(calls) == QWEN3_4B["num_hidden_layers"] and not cuda.of(*OTHERS)
    dtypes = {call[name].dtype for call in calls for name in ("query", "key", "value")}
    assert len(dtypes) == 1 and dtypes <= {torch.bfloat16, torch.float16}
    assert {tuple(call["key"].shape) for call in calls} == {(TOKENS, 8, 128)}
    results = [call.result for call in cuda.calls if isinstance(call.result, Tensor)]
    assert not [result for result in results if result.shape[-2:] == (TOKENS, TOKENS)]
