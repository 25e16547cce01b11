"""The strong branch as a plain Hugging Face folder that loads anywhere.

During a run a callback writes it; ``wdl export`` takes it from any checkpoint, on a machine with
neither the devices nor the number of processes that wrote it.
"""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from wdl.branches.loading import load_branch
from wdl.branches.lora import FOLDER, Lora, add_adapter, merge_adapter, save_adapter
from wdl.branches.reading import vision_weights
from wdl.branches.sources import (
    check_source,
    drop_idle_settings,
    load_config,
    load_tokenizer,
    model_class,
    model_digest,
    reads_images,
)
from wdl.branches.vision import Vision
from wdl.branches.whole_weights import whole_shapes
from wdl.config.paths import InputPath, ModelSource
from wdl.data.encoding import end_of_turn
from wdl.errors import UserError
from wdl.system.files import new_folder, write_text
from wdl.system.noise import name_accelerator
from wdl.system.types import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from wdl.training.checkpoints import read_state, read_weights
from wdl.training.hub import check_name, contents, push
from wdl.training.model_card import model_card

MAX_SHARD_SIZE = "5GB"

DType = Literal["float32", "bfloat16", "float16"]


def export_checkpoint(
    ckpt: InputPath,
    out: str,
    model: ModelSource | None = None,
    dtype: DType | None = None,
    push_to_hub: str | None = None,
    private: bool = True,
    dry_run: bool = False,
) -> None:
    """Write the strong branch of a checkpoint as a Hugging Face folder.

    Args:
        ckpt: A checkpoint of a run: runs/NAME/latest/checkpoints/*.ckpt, a file or a folder.
        out: Folder to write; must not exist yet.
        model: Where to take configuration and tokenizer from, by default the model that the run
            began with; also the weights that an adapter adapts, if they are not where they were.
        dtype: Of the weights; by default the one they were trained in.
        push_to_hub: Also upload the folder as this model, ORGANISATION/NAME, with the token of hf
            auth login or HF_TOKEN.
        private: Whether a repository that is made for it is seen by its owners alone.
        dry_run: Upload nothing, and list what would be; the folder is written all the same.

    Raises:
        UserError: There is no complete checkpoint, no model for it, or the folder exists; or the
            hub cannot be reached, or refuses.
    """
    if push_to_hub is not None:
        check_name(push_to_hub)
    elif dry_run:
        raise UserError("dry_run: is of an upload; give push_to_hub too")
    folder = Path(out)
    if folder.exists():
        raise UserError(f"out: {folder} exists already; choose another folder")
    name_accelerator()
    made = read_state(Path(ckpt)).get("made")
    if made is None:
        raise UserError(f"ckpt: {ckpt} is no checkpoint of wdl; give one of a run's checkpoints/")
    source = model or made["strong"]
    key = "model" if model else "the model that the run began with (give --model)"
    check_source(source, key, weights=False)
    write_strong(Path(ckpt), folder, source, dtype, base=model)
    print(f"exported the strong branch to {folder}")
    if push_to_hub is None:
        return
    if dry_run:
        seen = "private" if private else "public"
        print(f"would be uploaded to {push_to_hub}, {seen} if it is new:")
        print(*contents(folder), (folder / "README.md").read_text(encoding="utf-8"), sep="\n")
    else:
        print(f"uploaded to {push(folder, push_to_hub, private)}")


def write_strong(
    ckpt: Path, folder: Path, source: str, dtype: DType | None = None, base: str | None = None
) -> None:
    """Write the strong branch of ``ckpt`` to ``folder``, with what :func:`export_model` adds.

    Args:
        ckpt: A complete checkpoint.
        folder: Must not exist yet.
        source: Model folder or hub name, of which configuration and tokenizer are taken.
        dtype: Of the weights; by default the one they were trained in.
        base: Where else the weights may be that an adapter adapts.

    Raises:
        UserError: ``source`` is of another architecture, or what was adapted is not there.
    """
    made = read_state(ckpt)["made"]
    prefix = "branches.strong."
    stored = read_weights(ckpt)
    weights = {n.removeprefix(prefix): w for n, w in stored.items() if n.startswith(prefix)}
    config = load_config(source)
    with torch.device("meta"):
        branch = model_class(config).from_config(config, dtype=getattr(torch, made["dtype"]))
    lora = Lora(**made["lora"]) if "lora" in made else None
    if lora is not None:
        frozen, model = _base(made, "frozen", base)
        add_adapter(model, lora)
        made, weights = {**made, "frozen": frozen}, {**model.state_dict(), **weights}
    elif "vision" in made:
        _, model = _base(made, "vision", base)
        kept, own = vision_weights(model), model.state_dict()
        weights |= {name: weight for name, weight in own.items() if name in kept}
    if lora is None and whole_shapes(weights) != whole_shapes(branch.state_dict()):
        raise UserError(f"model: {source} is not the architecture of the weights in {ckpt}")
    if branch.can_generate():
        branch.generation_config = _generation_config(source)
    processor = Vision(source) if reads_images(config) else None
    export_model(branch, weights, load_tokenizer(source), folder, made, dtype, lora, processor)


def _base(made: Mapping[str, Any], key: str, moved: str | None) -> tuple[str, PreTrainedModel]:
    """The model that a checkpoint refers to for weights that it does not hold, and its place."""
    for base in (made[key], moved):
        if base is None:
            continue
        try:
            check_source(base, "model")
            digest = model_digest(base)
        except (UserError, OSError):  # not there; of the hub, or not within reach
            continue
        if digest == made[f"{key}_sha256"]:
            return base, load_branch(base, getattr(torch, made["dtype"]))
    raise UserError(
        f"model: the weights that did not train are not in {made[key]}"
        f"{f' or {moved}' if moved else ''}; give --model a folder with them (SHA-256 "
        f"{made[f'{key}_sha256']})"
    )


def _generation_config(source: str) -> GenerationConfig:
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(source)
    except OSError:  # a folder without generation_config.json
        return GenerationConfig.from_model_config(load_config(source))


def export_model(
    model: PreTrainedModel,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    made: Mapping[str, Any],
    dtype: DType | None = None,
    lora: Lora | None = None,
    vision: Vision | None = None,
) -> None:
    """Write ``folder``: safetensors, configurations, tokenizer, chat template and model card.

    Generation stops at every token that may end an answer: those of the model, of its tokenizer,
    and the one that ended the answers it was trained on. Files grow to 5 GB.

    Args:
        model: The branch; its own weights are not read.
        weights: All of its weights, whole, by their names in the branch.
        tokenizer: The tokenizer it was trained with.
        folder: Must not exist yet.
        made: How it was made, for the model card.
        dtype: Of the stored weights; that of ``weights`` by default.
        lora: Settings of the adapter in ``weights``, which is merged, and kept beside them.
        vision: The processor of pictures it was trained with.

    Raises:
        RuntimeError: What was written does not load as ``weights``; the folder is not kept.
    """
    if model.generation_config is not None:
        drop_idle_settings(model.generation_config)
    stored = getattr(torch, dtype) if dtype else model.dtype
    adapted = weights
    if lora is not None:
        weights = merge_adapter(weights, lora)
    weights = {
        name: weight.to(stored) if weight.is_floating_point() else weight
        for name, weight in weights.items()
    }
    tied = set(model.all_tied_weights_keys) if model.config.tie_word_embeddings else set()
    untied = {name: weight for name, weight in weights.items() if name not in tied}
    with new_folder(folder) as partial:
        model.save_pretrained(partial, state_dict=untied, max_shard_size=MAX_SHARD_SIZE)
        config = deepcopy(model.config)
        config.dtype = stored
        config.save_pretrained(partial)
        _ending_at_all_end_tokens(model, tokenizer).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        if vision is not None:
            vision.save(partial)
        write_text(partial / "README.md", model_card(made))
        if lora is not None:
            save_adapter(adapted, lora, made["frozen"], partial / FOLDER)
        _check_written(partial, weights)


def _ending_at_all_end_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> GenerationConfig:
    from transformers import GenerationConfig

    generation_config = deepcopy(model.generation_config) or GenerationConfig()
    ends = _as_set(generation_config.eos_token_id) | _as_set(
        model.config.get_text_config().eos_token_id
    )
    end, pad = end_of_turn(tokenizer), tokenizer.pad_token_id
    ends |= _as_set(tokenizer.eos_token_id) | {end}
    generation_config.eos_token_id = sorted(ends)
    has_row = pad is not None and pad < model.config.get_text_config().vocab_size
    generation_config.pad_token_id = pad if has_row else end
    return generation_config


def _as_set(token_ids: int | list[int] | None) -> set[int]:
    if token_ids is None:
        return set()
    return {token_ids} if isinstance(token_ids, int) else set(token_ids)


def _check_written(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Load the folder as a user will, and compare all that it gives."""
    loaded = (
        model_class(load_config(str(folder))).from_pretrained(folder, dtype="auto").state_dict()
    )
    if differing := loaded.keys() ^ weights.keys():
        raise RuntimeError(f"export: {sorted(differing)[0]} is not both in the model and written")
    for name, weight in weights.items():
        if loaded[name].dtype != weight.dtype or not torch.equal(loaded[name], weight):
            raise RuntimeError(f"export: {name} was not written as it is in the model")
