"""One set of weights for both branches: strong is a model with a LoRA adapter, weak is without it.

    strong: y = W·x + (alpha / rank)·B·A·x        weak: y = W·x

The adapter (peft, ``pip install 'wdl[lora]'``) is all that trains. B starts at 0, so both branches
start as one, unless the adapter is one that an earlier run has trained on the same model.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wdl.branches.loading import load_branch
from wdl.branches.quantised import check_quantised, quantise
from wdl.branches.reading import output_head, vision_weights
from wdl.branches.whole_weights import whole
from wdl.errors import UserError
from wdl.system.types import PreTrainedModel

FOLDER = "adapter"
"""Where an exported model keeps the adapter that was merged into it."""
_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_NAME = "default"
_PEFT_PREFIX = "base_model.model."
"""What peft puts before the names of weights in files."""


@dataclass(frozen=True)
class Lora:
    """A low-rank adapter of linear layers; those of a vision tower stay as they are.

    Args:
        rank: Columns of B and rows of A.
        alpha: The adapter's output is scaled by alpha / rank.
        dropout: Of the adapter's input, in training. The masks after a resume are others than
            those without the interruption.
        target_modules: Layers by the ends of their names (``q_proj``), or ``all-linear`` for all
            but the output head.
        quantised: Hold the weights that do not train in 4 bits (QLoRA), those of the weak branch
            too. What is exported is merged into the weights as they were.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: list[str] | str = "all-linear"
    quantised: bool = False


def check_lora(
    lora: Lora,
    strong: str,
    weak: str | None,
    train_weak: bool,
    pretrained: bool,
    train_vision: bool = False,
) -> None:
    """Refuse settings under which two branches cannot share their weights.

    Args:
        lora: The adapter.
        strong: Source of the strong branch: the weak one's, or an export with an adapter of it.
        weak: Source of the weak branch, None for plain fine-tuning of an adapter.
        train_weak: Whether the weak branch is to train.
        pretrained: Whether the strong branch has weights to adapt.
        train_vision: Whether a vision tower is to train.
    """
    if find_spec("peft") is None:
        raise UserError("model.lora: peft is missing; pip install 'wdl[lora]'")
    if lora.quantised:
        check_quantised()
    if lora.rank < 1 or lora.alpha <= 0 or not 0 <= lora.dropout < 1:
        raise UserError(
            f"model.lora: rank {lora.rank} must be at least 1, alpha {lora.alpha} above 0, dropout "
            f"{lora.dropout} in [0, 1)"
        )
    if not pretrained:
        raise UserError("model.pretrained: model.lora adapts weights; there must be some, set true")
    if train_vision:
        raise UserError(
            "model.train_vision: model.lora leaves the vision tower as it is; drop one of both"
        )
    if weak is None:
        return
    if train_weak:
        raise UserError(
            "model.train_weak: with model.lora the weak branch is the model without its adapter, "
            "which does not train; set it to false"
        )
    if strong != weak and not (Path(strong) / FOLDER / _CONFIG).is_file():
        raise UserError(
            f"model.lora: branches that share their weights start from one model, or strong from "
            f"an export that holds an adapter of weak; {strong} has no folder {FOLDER}; set "
            "model.strong to model.weak, or train strong from it with model.lora"
        )


def load_adapted(
    lora: Lora, strong: str, base: str, dtype: torch.dtype, packed: bool = False
) -> PreTrainedModel:
    """A strong branch with an adapter, in training mode.

    Args:
        lora: The adapter.
        strong: Its source: ``base``, for an adapter that changes nothing yet, or an export whose
            adapter is taken over.
        base: Source of the weights that do not train.
        dtype: Of all weights.
        packed: Whether it is to read packs.

    Raises:
        UserError: The model or the export does not fit the adapter's settings.
    """
    model = load_branch(base, dtype, packed=packed)
    if lora.quantised:
        quantise(model)
    add_adapter(model, lora)
    if strong != base:
        _load_adapter(model, lora, base, strong)
    return model


def add_adapter(model: PreTrainedModel, lora: Lora) -> None:
    """Freeze ``model`` and give it an adapter that changes nothing yet.

    Raises:
        UserError: A target is not there, is no linear layer, or is the output head, whose weight
            the mixed loss reads past any adapter.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from peft.tuners.lora import Linear

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type] # any number will do
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        exclude_modules=sorted({name.rpartition(".")[0] for name in vision_weights(model)}) or None,
    )
    head = output_head(model)
    try:
        inject_adapter_in_model(config, model, _NAME)
    except ValueError as error:
        raise UserError(f"model.lora.target_modules: {error}") from error
    for name, layer in _adapted(model):
        if not isinstance(layer, Linear) or not isinstance(layer.get_base_layer(), nn.Linear):
            raise UserError(f"model.lora.target_modules: {name} is no linear layer; leave it out")
        if layer.get_base_layer() is head:
            raise UserError(f"model.lora.target_modules: {name} is the output head; leave it out")
    with torch.random.fork_rng():
        torch.manual_seed(torch.initial_seed())  # the same start under every strategy
        for _, layer in _adapted(model):
            # sharded weights are created empty, so that peft's own start from 0 has missed them
            with whole([*layer.lora_A.parameters(), *layer.lora_B.parameters()], modified=True):
                layer.reset_lora_parameters(_NAME, True)


@contextmanager
def without_adapter(model: PreTrainedModel) -> Iterator[None]:
    """``model`` as it was before, in evaluation mode as befits a branch that does not train."""
    training = model.training
    model.eval()
    for _, layer in _adapted(model):
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for _, layer in _adapted(model):
            layer.enable_adapters(True)
        model.train(training)


def is_adapter(name: str) -> bool:
    """Whether a weight of an adapted model is the adapter's."""
    return ".lora_A." in name or ".lora_B." in name


def merge_adapter(weights: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """Weights of a model without an adapter that computes what the adapted one does.

    Args:
        weights: Of an adapted model, by its names. Nothing is changed in place.
        lora: The adapter's settings.

    Returns:
        W + (alpha / rank)·B·A under the names of the model without adapter, summed in float32 and
        of the dtype of W.
    """
    merged = {}
    for name, weight in weights.items():
        layer, wrapped, rest = name.partition(".base_layer.")
        if wrapped and rest == "weight":
            a, b = (weights[f"{layer}.lora_{part}.{_NAME}.weight"].float() for part in "AB")
            scale = lora.alpha / lora.rank
            weight = torch.addmm(weight.float(), b, a, alpha=scale).to(weight.dtype)
        if not is_adapter(name):
            merged[f"{layer}.{rest}" if wrapped else name] = weight
    return merged


def save_adapter(weights: Mapping[str, Tensor], lora: Lora, base: str, folder: Path) -> None:
    """Write the adapter alone, as peft loads it: ``PeftModel.from_pretrained(model, folder)``.

    Args:
        weights: Of an adapted model, by its names.
        lora: The adapter's settings.
        base: Where the model came from.
        folder: Created.
    """
    from peft import LoraConfig, TaskType

    kept = {name: weight for name, weight in weights.items() if is_adapter(name)}
    config = LoraConfig(
        base_model_name_or_path=base,
        task_type=TaskType.CAUSAL_LM,
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=sorted({name.split(".lora_")[0] for name in kept}),
    )
    config.save_pretrained(str(folder))
    named = {_PEFT_PREFIX + name.replace(f".{_NAME}.", "."): w for name, w in kept.items()}
    save_file(named, folder / _WEIGHTS, {"format": "pt"})


def _load_adapter(model: PreTrainedModel, lora: Lora, base: str, export: str) -> None:
    """Set the adapter of ``model`` to the one in an export, which must be of ``base`` and alike."""
    from peft import LoraConfig

    folder = Path(export) / FOLDER
    found = LoraConfig.from_pretrained(str(folder))
    earlier = replace(lora, rank=found.r, alpha=found.lora_alpha)
    if found.base_model_name_or_path != base or earlier != lora:
        raise UserError(
            f"model.lora: {folder} is an adapter of {found.base_model_name_or_path} with rank "
            f"{found.r} and alpha {found.lora_alpha}, not of {base} with rank {lora.rank} and "
            f"alpha {lora.alpha}; set model.weak and model.lora to what it was trained with"
        )
    stored = load_file(folder / _WEIGHTS)
    ours = {
        _PEFT_PREFIX + name.replace(f".{_NAME}.", "."): parameter
        for name, parameter in model.named_parameters()
        if is_adapter(name)
    }
    if ours.keys() != stored.keys():
        odd = sorted(ours.keys() ^ stored.keys())[0].removeprefix(_PEFT_PREFIX)
        raise UserError(
            f"model.lora.target_modules: they differ from those of {folder}, for example in {odd}"
        )
    with torch.no_grad():
        for name, parameter in ours.items():
            with whole([parameter], modified=True):
                parameter.copy_(stored[name])


def _adapted(model: PreTrainedModel) -> list[tuple[str, Any]]:
    """Layers with an adapter, by name."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(n, layer) for n, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)]
