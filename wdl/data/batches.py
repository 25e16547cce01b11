"""Micro-batches: samples padded or packed, with their pictures."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NotRequired, TypedDict

import torch
from torch import Tensor

from wdl.branches.packed_attention import Segments
from wdl.branches.vision import ImageError, Vision, image_bytes, open_image
from wdl.constants import IGNORE_INDEX
from wdl.data.encoding import Encoded
from wdl.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


class Batch(TypedDict):
    """What a branch is trained and validated on: padded samples, or one pack (then B = 1).

    Attributes:
        input_ids: [B, T] int64, padded on the right.
        attention_mask: [B, T] int64, 0 on padding; None for a pack.
        segments: Where the samples of a pack stand.
        images: What a vision-language branch reads beside the tokens, see
            :meth:`wdl.branches.vision.Vision.inputs`.
        labels: [B, T] int64, ``labels[b, t]`` is the token that position t predicts, or
            ``IGNORE_INDEX`` where that token is no completion token. Nothing shifts them again.
        sample_ids: [B] int64, the ``idx`` of each sample.
        denominator: Completion tokens of the whole optimizer step over all ranks (training), or
            of this batch (validation).
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    segments: NotRequired[Segments]
    images: NotRequired[dict[str, Tensor]]
    labels: Tensor
    sample_ids: Tensor
    denominator: int


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


def with_pictures(
    samples: Sequence[Encoded], vision: Vision, form: Callable[[Sequence[Encoded]], Batch]
) -> Batch:
    """The batch that ``form`` makes of ``samples``, with their pictures.

    There is a picture in each batch, if need be in a further sample that counts for nothing: a
    vision tower that some processes run and others do not is a deadlock where it is sharded.

    Raises:
        UserError: A picture is not what was encoded.
    """
    pictures = [picture for sample in samples for picture in _pictures(sample)]
    if not pictures:
        tokens, blank = vision.blank
        pictures = [blank]
        samples = [*samples, {"input_ids": tokens, "prompt_length": len(tokens)}]
    batch = form(samples)
    batch["images"] = vision.inputs(batch["input_ids"], pictures)
    return batch


def _pictures(sample: Encoded) -> Iterator["Image"]:
    for file, sha256 in zip(sample["images"], sample["image_sha256"], strict=True):
        try:
            data = image_bytes(file)
            if hashlib.sha256(data).hexdigest() != sha256:
                raise ImageError(f"{file} is not what it was at the start; start again")
            yield open_image(file, data)
        except ImageError as error:
            raise UserError(f"{error}") from None


def completion_tokens(batch: Batch) -> Tensor:
    """Completion tokens [S] int64 of each sample, in the order of their labels."""
    counted = batch["labels"] != IGNORE_INDEX
    if "segments" not in batch:
        return counted.sum(1)
    before = torch.nn.functional.pad(counted[0].cumsum(0), (1, 0))
    return before[batch["segments"]["cu_seq_lens_q"]].diff()
