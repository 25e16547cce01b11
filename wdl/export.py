"""The strong branch as a plain Hugging Face folder that loads anywhere."""

import contextlib
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from wdl.data.encoding import end_of_turn
from wdl.files import new_folder


def gather_weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """All weights of a branch on the CPU, whole, also where ZeRO stage 3 shards them.

    Every rank must call this.
    """
    weights = {}
    for name, parameter in model.state_dict(keep_vars=True).items():
        with _whole(parameter):
            weights[name] = parameter.detach().cpu().clone()
    return weights


def _whole(parameter: Tensor) -> contextlib.AbstractContextManager:
    if not hasattr(parameter, "ds_id"):  # DeepSpeed's mark on a sharded parameter
        return contextlib.nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter])


def export_model(
    model: PreTrainedModel,
    weights: dict[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
) -> None:
    """Write ``folder``: safetensors, configuration, generation configuration, tokenizer, template.

    Generation stops at every token that may end an answer: those of the model, of its tokenizer,
    and the one that ended the answers it was trained on.

    Args:
        model: The branch; only its configuration is read.
        weights: What :func:`gather_weights` returned.
        tokenizer: The tokenizer it was trained with.
        folder: Must not exist yet.

    Raises:
        RuntimeError: What was written does not read back as ``weights``; the folder is not kept.
    """
    tied = set(model.all_tied_weights_keys) if model.config.tie_word_embeddings else set()
    weights = {name: weight for name, weight in weights.items() if name not in tied}
    with new_folder(folder) as partial:
        model.save_pretrained(partial, state_dict=dict(weights))  # it takes the entries out
        generation_config = model.generation_config or GenerationConfig()
        ends = _as_set(generation_config.eos_token_id) | _as_set(model.config.eos_token_id)
        ends |= _as_set(tokenizer.eos_token_id) | {end_of_turn(tokenizer)}
        generation_config.eos_token_id = sorted(ends)
        generation_config.pad_token_id = tokenizer.pad_token_id
        generation_config.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        _check_written(partial, weights)


def _as_set(token_ids: int | list[int] | None) -> set[int]:
    if token_ids is None:
        return set()
    return {token_ids} if isinstance(token_ids, int) else set(token_ids)


def _check_written(folder: Path, weights: dict[str, Tensor]) -> None:
    written: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118 - no mapping
                written.add(name)
                if not torch.equal(stored.get_tensor(name), weights[name]):
                    raise RuntimeError(f"export: {name} was not written as it is in the model")
    if missing := weights.keys() - written:
        raise RuntimeError(f"export: {sorted(missing)[0]} was not written ({len(missing)} missing)")
