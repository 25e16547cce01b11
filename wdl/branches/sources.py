"""Where branches come from: folders and names of the hub, looked at before anything is loaded."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from wdl.config.paths import is_hub_name
from wdl.errors import UserError
from wdl.system.digests import files_digest
from wdl.system.hub import hub_fault
from wdl.system.types import (
    GenerationConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)


def check_source(source: str, key: str, weights: bool = True) -> None:
    """Refuse what cannot become a branch, as far as files show it, before anything is loaded.

    Args:
        source: A folder, or a name on the model hub (``organisation/name``).
        key: The configuration key it came from.
        weights: Whether its weights are wanted too.

    Raises:
        UserError: One line, which begins with ``key``.
    """
    from transformers import GenerationConfig
    from transformers.utils import GENERATION_CONFIG_NAME

    folder = Path(source)
    try:
        if not folder.is_dir() and not is_hub_name(source):
            raise UserError(f"there is no folder {source}; give a Hugging Face folder or name")
        fault = _folder_fault(folder, weights) if folder.is_dir() else None
        fault = fault or _kind_fault(load_config(source))
        if (folder / GENERATION_CONFIG_NAME).is_file():
            with reading(source, GENERATION_CONFIG_NAME):
                drop_idle_settings(GenerationConfig.from_pretrained(source))
    except UserError as error:
        raise UserError(f"{key}: {error.faults[0]}") from error
    if fault:
        raise UserError(f"{key}: {source} {fault}")


def _folder_fault(folder: Path, weights: bool) -> str | None:
    """What a folder lacks, or has in place of it."""
    if not (folder / "config.json").is_file():
        return "holds no config.json; give a Hugging Face folder"
    for file in sorted(folder.iterdir()):
        if file.is_file() and _begins_with(file, b"version https://git-lfs"):
            return f"holds a Git LFS pointer in place of {file.name}; run git lfs pull there"
    return _weights_fault(folder) if weights else None


def _begins_with(file: Path, text: bytes) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(text)) == text


def _weights_fault(folder: Path) -> str | None:
    """What is wrong with the files of weights that transformers would read."""
    again = "copy or export the model again"
    for name in ("model.safetensors", "pytorch_model.bin"):
        index, shards = folder / f"{name}.index.json", {name}
        if not (folder / name).is_file():
            if not index.is_file():
                continue
            try:
                shards = set(json.loads(index.read_text())["weight_map"].values())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                return f"has a broken {index.name} ({error!r}); {again}"
        for shard in sorted(shards):
            if not (folder / shard).is_file():
                return f"lacks {shard}, which {index.name} names; {again}"
            try:
                if shard.endswith(".safetensors"):
                    safe_open(folder / shard, framework="pt")
            except SafetensorError as error:
                return f"has a damaged {shard} ({error}); {again}"
        return None
    return "holds no weights; give a trained model"


def reads_images(config: PretrainedConfig) -> bool:
    """Whether a model takes pictures beside text."""
    return "vision_config" in type(config).sub_configs


def model_class(config: PretrainedConfig) -> Any:
    """The class of transformers that loads a model."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if reads_images(config) else AutoModelForCausalLM


def _kind_fault(config: PretrainedConfig) -> str | None:
    """Why a model is no language model that reads tokens, and perhaps pictures, and no more."""
    kind, parts = config.model_type, set(type(config).sub_configs)
    if config.is_encoder_decoder:
        return f"is an encoder-decoder model ({kind}); give a decoder-only language model"
    if strange := parts - {"vision_config", "text_config"}:
        return f"is a model of several parts ({kind}, with {min(strange)}); give its text"
    if type(config) not in model_class(config)._model_mapping:
        return f"is no causal or image-text model of transformers ({kind}); give one"
    if not getattr(config.get_text_config(), "vocab_size", None):
        return "has no vocab_size in config.json; give a whole Hugging Face folder"
    return None


@contextmanager
def reading(source: str, what: str) -> Iterator[None]:
    """Turn what transformers says of damaged or missing files into one line."""
    offline = hub_fault() if is_hub_name(source) else None
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        if offline:
            raise UserError(
                f"{source}: its {what} is not in the hub's cache on this machine, and the hub is "
                f"not asked ({offline}); give the folder of a model, or connect once"
            ) from error
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
    from transformers import AutoConfig

    with reading(source, "configuration"):
        return AutoConfig.from_pretrained(source)


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a model folder or on the hub.

    Raises:
        UserError: There is none that can be read.
    """
    from transformers import AutoTokenizer

    if Path(source).is_dir() and not (Path(source) / "tokenizer_config.json").is_file():
        raise UserError(f"{source}: holds no tokenizer_config.json; copy the tokenizer into it")
    with reading(source, "tokenizer"):
        return AutoTokenizer.from_pretrained(source)


def model_digest(source: str) -> str:
    """What tells one branch from another: its files, or the commit of a model on the hub."""
    folder = Path(source)
    if folder.is_dir():
        return files_digest(sorted(p for p in folder.iterdir() if p.is_file()))
    return f"{source}@{load_config(source)._commit_hash}"


def drop_idle_settings(settings: GenerationConfig) -> None:
    """Take away what has no effect on generation, such as a temperature where nothing is sampled.

    transformers reads such settings but refuses to save them.

    Raises:
        ValueError: There are some that it cannot use at all.
    """
    try:
        settings.validate(strict=True)
    except ValueError as error:
        for name in re.findall(r"^- `(\w+)`", str(error), re.MULTILINE):
            setattr(settings, name, None)
        settings.validate(strict=True)
