"""Branches: causal language models of transformers, loaded and checked one way."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from wdl.branches.packed_attention import Segments, use_packed_attention
from wdl.errors import UserError
from wdl.system.digests import files_digest

_LOGIT_CHANGES = {
    "final_logit_softcapping": None,
    "logits_scaling": 1.0,
    "logit_scale": 1.0,
    "lm_head_multiplier": 1.0,
    "output_multiplier_scale": 1.0,
}
"""Settings of transformers configurations that make logits other than hidden @ head.T."""


def check_source(source: str, key: str) -> None:
    """Refuse a folder that is not there or holds no model, before anything is loaded.

    Args:
        source: A folder, or a name on the model hub (``organisation/name``).
        key: The configuration key it came from.
    """
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise UserError(f"{key}: {source} holds no config.json; give a Hugging Face folder")
    elif folder.is_absolute():
        raise UserError(f"{key}: there is no folder {source}; give a Hugging Face folder or name")


@contextmanager
def _reading(source: str, what: str) -> Iterator[None]:
    """Turn what transformers says of damaged or missing files into one line."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{source}: its {what} cannot be read ({reason}); check the folder, or the name and "
            "the connection to the hub"
        ) from error


def load_config(source: str) -> PretrainedConfig:
    """The configuration in a model folder or on the hub.

    Raises:
        UserError: There is none that can be read.
    """
    with _reading(source, "configuration"):
        return AutoConfig.from_pretrained(source)


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a model folder or on the hub.

    Raises:
        UserError: There is none that can be read.
    """
    with _reading(source, "tokenizer"):
        return AutoTokenizer.from_pretrained(source)


def model_digest(source: str) -> str:
    """What tells one branch from another: its files, or the commit of a model on the hub."""
    folder = Path(source)
    if folder.is_dir():
        return files_digest(sorted(p for p in folder.iterdir() if p.is_file()))
    return f"{source}@{load_config(source)._commit_hash}"


def load_branch(
    source: str,
    dtype: torch.dtype = torch.float32,
    pretrained: bool = True,
    device: torch.device | None = None,
) -> PreTrainedModel:
    """A causal language model whose logits are ``hidden @ head.T``, in training mode.

    Args:
        source: A folder, or a name on the model hub.
        dtype: Of its parameters.
        pretrained: False draws the weights at random from the configuration alone.
        device: Where to put it; the CPU, or where a strategy's context wants it, by default.

    Raises:
        UserError: Its logits are made in another way.
    """
    config = load_config(source)
    _refuse_changed_logits(config.get_text_config().to_dict(), source)
    if pretrained:
        with _reading(source, "weights"):
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    else:
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if getattr(output_head(model), "bias", None) is not None:
        raise UserError(f"{source}: its output head has a bias, which the mixed loss does not know")
    if device is not None:
        model.to(device)  # type: ignore[arg-type]
    return model.train()


def _refuse_changed_logits(config: dict, source: str) -> None:
    for setting, neutral in _LOGIT_CHANGES.items():
        value = config.get(setting, neutral)
        if value not in (None, neutral):
            raise UserError(
                f"{source}: {setting}={value} changes the logits after the output head, which "
                "the mixed loss does not know; use a model without it"
            )


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


def check_same_vocabulary(strong: str, weak: str) -> None:
    """Refuse a pair of branches that number their tokens differently.

    Logits are mixed entry by entry, so both the tokenizers and the sizes of the heads must agree.
    """
    sizes = [load_config(s).get_text_config().vocab_size for s in (strong, weak)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f"model.weak: {weak} has {sizes[1]} logits, {strong} has {sizes[0]}; both branches "
            "must share one vocabulary"
        )
    vocabularies = [load_tokenizer(source).get_vocab() for source in (strong, weak)]
    if vocabularies[0] != vocabularies[1]:
        differing = sorted(set(vocabularies[0].items()) ^ set(vocabularies[1].items()))
        raise UserError(
            f"model.weak: the tokenizer of {weak} differs from that of {strong}, for example at "
            f"{json.dumps(differing[0][0])}; both branches must share one vocabulary"
        )
