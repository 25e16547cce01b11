"""Attention over packs: several samples in one row, none of which sees another.

CUDA runs torch's variable-length kernel, once for a pack. Where that cannot be, on a CPU or for a
head size or dtype that it refuses, attention goes segment by segment, which costs no more than the
samples alone; a dense block-diagonal mask would cost more than the padding it saves.

Registered with transformers as ``wdl_packed``. A branch that uses it reads packs and nothing else:
without the borders it refuses, where other attentions would mix the samples without a word.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import cache, lru_cache, partial
from typing import Any, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wdl.system.types import PreTrainedModel

NAME = "wdl_packed"
_KERNEL_DTYPES = (torch.float16, torch.bfloat16)
_KERNEL_WIDTH, _KERNEL_STEP = 256, 8
"""Values of a head that the kernel takes at most, and of which they are a multiple."""
_NO_MATTER = {"position_ids", "cu_seq_lens_k", "max_length_k", "is_causal"}
"""What transformers hands to every attention, and what this one needs not know."""
untold_windows: set[int | None] = set()
"""Windows that a model asked masks for, and that no attention has been told of since."""


class Segments(TypedDict):
    """Where the samples of a pack stand, as transformers' models take it.

    Attributes:
        position_ids: [1, T] int64, counted from 0 in each sample.
        cu_seq_lens_q: [samples + 1] int32, where samples begin, and the end.
        cu_seq_lens_k: The same.
        max_length_q: Tokens of the longest sample.
        max_length_k: The same.
    """

    position_ids: Tensor
    cu_seq_lens_q: Tensor
    cu_seq_lens_k: Tensor
    max_length_q: int
    max_length_k: int


def use_packed_attention(model: PreTrainedModel) -> None:
    """Let ``model`` read packs from now on (so also when activations are recomputed).

    A vision tower knows no packs, and stays as it is.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    if attention_of(model) != NAME:
        AttentionInterface.register(NAME, packed_attention)
        AttentionMaskInterface.register(NAME, _no_mask)
        set_attention(model, NAME)


def attention_of(model: PreTrainedModel) -> str:
    """What the language model attends by."""
    return model.config.get_text_config()._attn_implementation


def set_attention(model: PreTrainedModel, name: str) -> None:
    """Let the language model attend by ``name``."""
    alone = model.config.get_text_config() is model.config
    model.set_attn_implementation(name if alone else {"text_config": name})


@torch.compiler.disable  # a kernel already, and borders that are other numbers in every batch
def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each segment, by the interface of transformers.

    Args:
        module: The attention layer.
        query: [1, heads, T, D].
        key: [1, key heads, T, D], each of which serves as many query heads as there are more.
        value: [1, key heads, T, D].
        attention_mask: None; the borders say it all.
        scaling: Of the scores; 1/√D by default.
        dropout: Of the attention weights; 0.
        sliding_window: Tokens that each one sees, itself included; None for all.
        cu_seq_lens_q: [segments + 1] int32, where segments begin, and the end.
        max_length_q: Tokens of the longest segment.
        **others: What transformers hands to every attention.

    Returns:
        [1, T, heads, D], and no weights.

    Raises:
        RuntimeError: There are no borders, or something is asked for that is not known here.
    """
    if cu_seq_lens_q is None or max_length_q is None or dropout:
        raise RuntimeError("packed attention needs the borders of its segments, and no dropout")
    asked = {"attention_mask": attention_mask, **others}
    if strange := [
        k for k, v in asked.items() if v is not None and v is not False and k not in _NO_MATTER
    ]:
        raise RuntimeError(f"packed attention does not know {', '.join(strange)}")
    untold_windows.discard(sliding_window)
    query, key, value = _in_one_dtype(query, key, value)
    window = sliding_window if sliding_window and sliding_window < max_length_q else None
    if _kernel_takes(query, value):
        # views, [T, heads, D]: the kernel wants no more than each head's values side by side
        q, k, v = (part.squeeze(0).transpose(0, 1) for part in (query, key, value))
        left = -1 if window is None else window - 1
        borders, longest = cu_seq_lens_q, max_length_q
        out = _kernel()(
            q, k, v, borders, borders, longest, longest, scale=scaling, window_size=(left, 0)
        )
        return out.unsqueeze(0), None
    lengths = segment_lengths(cu_seq_lens_q)
    parts = zip(*(part.split(lengths, dim=2) for part in (query, key, value)), strict=True)
    segments = [_attend(q, k, v, scaling, window) for q, k, v in parts]
    return torch.cat(segments, dim=2).transpose(1, 2).contiguous(), None


def _kernel_takes(query: Tensor, value: Tensor) -> bool:
    """Whether the variable-length kernel can attend with heads like these."""
    size = query.shape[-1]
    fits = size <= _KERNEL_WIDTH and size % _KERNEL_STEP == 0 and size == value.shape[-1]
    return query.is_cuda and query.dtype in _KERNEL_DTYPES and fits


@cache
def _kernel() -> Callable[..., Any]:
    """The variable-length attention of torch, for heads that share keys.

    Since torch 2.12 they have to be asked for; the kernel of 2.11 takes them as they are.
    """
    from torch.nn.attention.varlen import varlen_attn

    known = "enable_gqa" in inspect.signature(varlen_attn).parameters
    return partial(varlen_attn, enable_gqa=True) if known else varlen_attn


@lru_cache(maxsize=1)
def segment_lengths(borders: Tensor) -> list[int]:
    """Tokens of each segment, by their borders [segments + 1].

    A GPU has to be waited for, so that all layers ask about a pack once, recomputation included.
    """
    return borders.diff().tolist()


def _in_one_dtype(*operands: Tensor) -> Iterator[Tensor]:
    """As autocast would have them, had no norm on the way given some of them 32 bits again."""
    kind = operands[0].device.type
    cast = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return (operand.to(cast or operand.dtype) for operand in operands)


def _attend(q: Tensor, k: Tensor, v: Tensor, scaling: float | None, window: int | None) -> Tensor:
    """One segment, [1, heads, tokens, D]."""
    tokens = q.shape[2]
    if window is None or window >= tokens:
        return F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, enable_gqa=True
        )
    seen = torch.ones(tokens, tokens, dtype=torch.bool, device=q.device).tril()
    seen = seen.triu(1 - window)
    return F.scaled_dot_product_attention(q, k, v, seen, scale=scaling, enable_gqa=True)


def _no_mask(*args: Any, local_size: int | None = None, **options: Any) -> None:
    """The mask that transformers asks for: there is none."""
    if local_size:
        untold_windows.add(local_size)
