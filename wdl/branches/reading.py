"""How training reads a branch: its hidden states, and the head that turns them into logits."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from wdl.branches.packed_attention import Segments, segment_lengths, use_packed_attention
from wdl.branches.sources import reads_images
from wdl.system.types import PreTrainedModel


def output_head(model: PreTrainedModel) -> nn.Linear:
    """The layer that turns hidden states into logits."""
    return model.get_output_embeddings()


def vision_weights(model: PreTrainedModel) -> set[str]:
    """Names of the weights of a vision tower, and of what projects its output: all but the text."""
    if not reads_images(model.config):
        return set()
    text = {*model.get_decoder().parameters(), *output_head(model).parameters()}
    return {name for name, weight in model.named_parameters() if weight not in text}


def hidden_states(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    segments: Segments | None = None,
    images: dict[str, Tensor] | None = None,
) -> Tensor:
    """Last hidden states [B, T, H], after the final norm: what the output head reads.

    Args:
        model: A branch.
        input_ids: [B, T].
        attention_mask: [B, T], None for a pack.
        segments: The borders of the samples in a pack, from which on the model reads only packs.
        images: What a vision-language branch reads beside the tokens, see
            :meth:`wdl.branches.vision.Vision.inputs`.
    """
    others: dict[str, Any] = dict(images or {})
    if segments is not None:
        use_packed_attention(model)
        others.update(segments)
        if images is not None and hasattr(model.base_model, "get_rope_index"):
            others["position_ids"] = _positions(model, input_ids, segments, images)
    output = model.base_model(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **others
    )
    return output.last_hidden_state


def _positions(
    model: PreTrainedModel, input_ids: Tensor, segments: Segments, images: dict[str, Tensor]
) -> Tensor:
    """Positions [3, 1, T] of a pack with pictures, whose tokens lie in time, height and width.

    The model counts them from the beginning of a row, so each sample gets one for the while; and
    it looks at every picture, which is done on the host, as a GPU would be waited for each time.
    """
    lengths, grid = segment_lengths(segments["cu_seq_lens_q"]), images["image_grid_thw"].cpu()
    tokens, kinds, mask = (
        pad_sequence(row[0].cpu().split(lengths), batch_first=True)
        for row in (input_ids, images["mm_token_type_ids"], torch.ones(input_ids.shape).long())
    )
    positions, _ = model.base_model.get_rope_index(  # type: ignore[operator]
        tokens, kinds, image_grid_thw=grid, attention_mask=mask
    )
    return positions[:, mask.bool()][:, None].to(input_ids.device)
