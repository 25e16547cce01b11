"""Branches: language models of transformers, with or without vision, loaded and checked one way."""

import json
from typing import Any

import torch

from wdl.branches.probe import probe
from wdl.branches.reading import output_head
from wdl.branches.sources import load_config, load_tokenizer, model_class, reading
from wdl.branches.vision import ImageLimits, find_vision
from wdl.errors import UserError
from wdl.system.types import PreTrainedModel


def load_branch(
    source: str,
    dtype: torch.dtype = torch.float32,
    pretrained: bool = True,
    device: torch.device | None = None,
    packed: bool = False,
) -> PreTrainedModel:
    """A causal language model that training reads rightly, in training mode.

    Every process must call this.

    Args:
        source: A folder, or a name on the model hub.
        dtype: Of its parameters.
        pretrained: False draws the weights at random from the configuration alone.
        device: Where to put it; the CPU, or where a strategy's context wants it, by default.
        packed: Whether it is to read packs.

    Raises:
        UserError: Its weights are not all there, or :func:`~wdl.branches.probe.probe` refuses it.
    """
    model: PreTrainedModel
    found: dict[str, set]
    config = load_config(source)
    if pretrained:
        with reading(source, "weights"):
            model, found = model_class(config).from_pretrained(
                source, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
            )
        lacking = {*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])}
        if lacking:
            raise UserError(
                f"{source}: {len(lacking)} weights are not in its files, or of another size than "
                f"in config.json, for example {min(lacking)}; copy or export the model again"
            )
    else:
        model = model_class(config).from_config(config, dtype=dtype)
    check_head(model, source)
    if device is not None:
        model.to(device)  # type: ignore[arg-type]
    probe(model, source, packed, find_vision(source, ImageLimits()))
    return model.train()


def check_head(model: PreTrainedModel, source: str) -> None:
    """Refuse a model whose logits are more than a product of hidden states and a weight."""
    if getattr(output_head(model), "bias", None) is not None:
        raise UserError(f"{source}: its output head has a bias, which the mixed loss does not know")


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
    seen = [_sight(source) for source in (strong, weak)]
    if seen[0] != seen[1]:
        raise UserError(
            f"model.weak: {weak} does not take pictures as {strong} does, which reads them for "
            "both; take branches with the same image processor"
        )


def _sight(source: str) -> dict[str, Any] | None:
    """How a model's pictures are cut and scaled, whatever their size; None if it takes none."""
    vision = find_vision(source, ImageLimits())
    if vision is None:
        return None
    no_matter = {"size", "min_pixels", "max_pixels", "image_processor_type", "processor_class"}
    settings = vision.key()["settings"]
    return {name: value for name, value in settings.items() if name not in no_matter}
