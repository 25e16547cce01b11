"""From messages to tokens and the completion mask, the one way that all phases use.

The prompt is what the chat template renders with the generation prompt; the answer follows
verbatim; then exactly one end-of-turn token. Completion tokens are the answer and that token.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import NotRequired, TypedDict

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wdl.branches.packed_attention import Segments
from wdl.constants import IGNORE_INDEX, PAPER_SYSTEM_PROMPT
from wdl.errors import UserError


class Encoded(TypedDict):
    """Tokens of one sample; the completion is everything from ``prompt_length`` on."""

    input_ids: list[int]
    prompt_length: int


class Batch(TypedDict):
    """What a branch is trained and validated on: padded samples, or one pack (then B = 1).

    Attributes:
        input_ids: [B, T] int64, padded on the right.
        attention_mask: [B, T] int64, 0 on padding; None for a pack.
        segments: Where the samples of a pack stand.
        labels: [B, T] int64, ``labels[b, t]`` is the token that position t predicts, or
            ``IGNORE_INDEX`` where that token is no completion token. Nothing shifts them again.
        sample_ids: [B] int64, the ``idx`` of each sample.
        denominator: Completion tokens of the whole optimizer step over all ranks (training), or
            of this batch (validation).
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    segments: NotRequired[Segments]
    labels: Tensor
    sample_ids: Tensor
    denominator: int


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]
) -> list[int]:
    """Tokens of the conversation up to the point where the assistant answers."""
    return _tokens(tokenizer, [_render(tokenizer, messages)])[0]


def encode(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[dict[str, str]],
    completion: str,
    end_token: int,
) -> Encoded:
    """Tokens of one sample; see :func:`encode_batch`."""
    return encode_batch(tokenizer, [messages], [completion], end_token)[0]


def encode_batch(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Sequence[dict[str, str]]],
    completions: Sequence[str],
    end_token: int,
) -> list[Encoded]:
    """Tokens of samples.

    Args:
        tokenizer: The tokenizer that both branches share, with a chat template.
        conversations: What comes before each answer, ``{"role": ..., "content": ...}`` each.
        completions: The answers, encoded verbatim (no template touches them, so a ``<think>``
            block stays).
        end_token: What :func:`end_of_turn` returns; appended once to each.
    """
    prompts = _tokens(tokenizer, [_render(tokenizer, messages) for messages in conversations])
    answers = _tokens(tokenizer, list(completions))
    return [
        {"input_ids": [*prompt, *answer, end_token], "prompt_length": len(prompt)}
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> str:
    return str(
        tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
    )


def _tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=False).input_ids


def with_system_prompt(
    messages: Sequence[dict[str, str]], system_prompt: str | None
) -> list[dict[str, str]]:
    """The conversation, begun with a system message unless it has one of its own.

    Args:
        messages: The conversation.
        system_prompt: The message's text, ``paper`` for the paper's, or None to leave all as is.
    """
    if system_prompt is None or messages[0]["role"] == "system":
        return list(messages)
    text = PAPER_SYSTEM_PROMPT if system_prompt == "paper" else system_prompt
    return [{"role": "system", "content": text}, *messages]


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the token with which the chat template ends an assistant's turn.

    Read off the template, because names differ (``<|im_end|>``, ``<end_of_turn>``, ``<|eot_id|>``)
    and the configured eos of base models is often another one (Qwen3 Base).

    Raises:
        UserError: The tokenizer has no chat template, or the template ends a turn with ordinary
            text and there is no eos token to fall back on.
    """
    if not tokenizer.chat_template:
        raise UserError(
            f"{tokenizer.name_or_path}: the tokenizer has no chat template; put a "
            "chat_template.jinja beside it (take the one of the instruct model of the same family)"
        )
    answer = "wdl-probe"
    turn = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    rendered = str(tokenizer.apply_chat_template(turn, tokenize=False))
    tail = tokenizer(rendered.rpartition(answer)[2], add_special_tokens=False).input_ids
    for token in tail:
        if token in tokenizer.all_special_ids:
            return token
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{tokenizer.name_or_path}: neither the chat template nor an eos token says how an "
            "answer ends; set eos_token in tokenizer_config.json"
        )
    return tokenizer.eos_token_id


def collate(
    samples: Sequence[Encoded], sample_ids: Sequence[int], pad_token: int, denominator: int
) -> Batch:
    """Right-padded batch of ``samples``; without any, one padding token that counts for nothing.

    An empty micro-batch still runs through the model, so that every rank takes part in the same
    collectives.
    """
    width = max((len(sample["input_ids"]) for sample in samples), default=1)
    rows = max(len(samples), 1)
    input_ids = torch.full((rows, width), pad_token)
    attention_mask = torch.zeros((rows, width), dtype=torch.int64)
    labels = torch.full((rows, width), IGNORE_INDEX)
    for row, sample in enumerate(samples):
        tokens = torch.tensor(sample["input_ids"])
        start = sample["prompt_length"]
        input_ids[row, : len(tokens)] = tokens
        attention_mask[row, : len(tokens)] = 1
        labels[row, start - 1 : len(tokens) - 1] = tokens[start:]
    if not samples:
        attention_mask[0, 0] = 1  # a fully masked row is NaN in some attention kernels
    return {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "labels": labels,
        "sample_ids": torch.tensor(list(sample_ids), dtype=torch.int64),
        "denominator": denominator,
    }


def collate_pack(
    samples: Sequence[Encoded], sample_ids: Sequence[int], pad_token: int, denominator: int
) -> Batch:
    """One row of ``samples`` after each other; without any, one token that counts for nothing."""
    rows = samples or [{"input_ids": [pad_token], "prompt_length": 1}]
    tokens = [torch.tensor(sample["input_ids"]) for sample in rows]
    labels = []
    for sample, ids in zip(rows, tokens, strict=True):
        start = sample["prompt_length"]
        labels.append(torch.full_like(ids, IGNORE_INDEX))
        labels[-1][start - 1 : -1] = ids[start:]
    lengths = [len(ids) for ids in tokens]
    borders = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    return {
        "input_ids": torch.cat(tokens)[None],
        "attention_mask": None,
        "segments": {
            "position_ids": torch.cat([torch.arange(length) for length in lengths])[None],
            "cu_seq_lens_q": borders,
            "cu_seq_lens_k": borders,
            "max_length_q": max(lengths),
            "max_length_k": max(lengths),
        },
        "labels": torch.cat(labels)[None],
        "sample_ids": torch.tensor(list(sample_ids), dtype=torch.int64),
        "denominator": denominator,
    }


def completion_tokens(batch: Batch) -> Tensor:
    """Completion tokens [S] int64 of each sample, in the order of their labels."""
    counted = batch["labels"] != IGNORE_INDEX
    if "segments" not in batch:
        return counted.sum(1)
    before = torch.nn.functional.pad(counted[0].cumsum(0), (1, 0))
    return before[batch["segments"]["cu_seq_lens_q"]].diff()
