"""How training reads a branch: its hidden states, and the head that turns them into logits."""

from typing import Any

from torch import Tensor, nn

from wdl.branches.packed_attention import Segments, use_packed_attention
from wdl.system.types import PreTrainedModel


def output_head(model: PreTrainedModel) -> nn.Linear:
    """The layer that turns hidden states into logits."""
    return model.get_output_embeddings()


def hidden_states(
    model: PreTrainedModel,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    segments: Segments | None = None,
) -> Tensor:
    """Last hidden states [B, T, H], after the final norm: what the output head reads.

    Args:
        model: A branch.
        input_ids: [B, T].
        attention_mask: [B, T], None for a pack.
        segments: The borders of the samples in a pack, from which on the model reads only packs.
    """
    borders: dict[str, Any] = {}
    if segments is not None:
        use_packed_attention(model)
        borders.update(segments)
    output = model.base_model(
        input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **borders
    )
    return output.last_hidden_state
