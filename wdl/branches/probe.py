"""One numerical look at a loaded model, instead of lists of architectures that are known to work.

Training reads a branch in ways of its own: hidden states and the head's weight instead of logits,
packs or padded rows instead of samples. What comes out must be what the model's own forward pass
makes of each sample alone. A few tokens show it.

The weights are widened to float32 while they compute, one layer at a time, so that rounding cannot
be taken for a fault, nor a fault for rounding; and gathered, where a strategy has divided them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from wdl.branches.packed_attention import Segments, noted_windows
from wdl.branches.reading import hidden_states, output_head
from wdl.branches.whole_weights import whole
from wdl.errors import UserError

_SEEDS = (0, 1)
"""Of the samples. A mixture of experts may route a token otherwise after any rounding, so that one
sample does not condemn a model; a fault shows in every one."""
_SAMPLE, _PREFIX = 21, 9
_TOLERANCE = torch.finfo(torch.float32).eps ** 0.5
"""Relative error of a token's hidden states: half of the digits. On tiny models, rounding stays
below 2e-6 and the smallest fault that was seen makes 3e-3."""
_FACTOR = 100.0
"""Hidden states are enlarged before the head, or a cap far above the logits would not show."""


def probe(model: PreTrainedModel, source: str, packed: bool) -> None:
    """Refuse a model that training would read wrongly. Every process must call this.

    Args:
        model: As it was loaded; left as it is, and so are all random numbers.
        source: Where it came from.
        packed: Whether it is to read packs, instead of samples padded on the right.

    Raises:
        UserError: Names the architecture, and what works instead.
    """
    with _undisturbed(model):
        faults = []
        with _whole_parts(model, widened=True):
            for seed in _SEEDS:
                faults.append(_fault(model, seed, packed))
                if faults[-1] is None:
                    break
        fault = faults[-1]
        if fault is None:
            fault = _fault_in_training(model, packed)
    if fault is not None:
        key = "data.max_tokens: " if packed and "packs" in fault else ""
        raise UserError(f"{key}{source}: {type(model).__name__} {fault}")


def _fault(model: PreTrainedModel, seed: int, packed: bool) -> str | None:
    sample, other = _tokens(model, seed)
    try:
        truth = _read_by_head(model, sample)
        alone = hidden_states(model, sample[None], torch.ones_like(sample[None]))[0]
    except Exception as error:  # whatever a model's own code raises
        return f"fails in its forward pass ({_said(error)}); choose another model"
    if not torch.isfinite(alone).all():
        return "gives values that are not finite; look at its weights, or choose another model"
    if truth is None or not _alike(alone, truth):
        return (
            "makes other logits than its hidden states times the weight of its output head, which "
            "is all that the losses know; choose another model"
        )
    by_padding = _difference(lambda: _padded(model, sample), truth)
    if not packed:
        return by_padding and (
            f"reads samples padded on the right otherwise than alone ({by_padding}); choose "
            "another model"
        )
    by_packing = _difference(lambda: _packed(model, sample, other), truth)
    return by_packing and (
        f"cannot read packs ({by_packing}); "
        + ("choose another model" if by_padding else "leave it out: padded samples it reads right")
    )


def _fault_in_training(model: PreTrainedModel, packed: bool) -> str | None:
    """What comes up in training mode alone, or with the weights' own dtype."""
    sample, other = _tokens(model, _SEEDS[0])
    model.train()
    with _whole_parts(model, widened=False):
        try:
            _packed(model, sample, other) if packed else _padded(model, sample)
        except Exception as error:
            how = "cannot read packs in training" if packed else "fails in training"
            return f"{how} ({_said(error)}); leave packing or dropout out, or choose another model"
    return None


def _tokens(model: PreTrainedModel, seed: int) -> tuple[Tensor, Tensor]:
    """Two samples of random tokens."""
    tokens = torch.randint(
        model.config.get_text_config().vocab_size,
        (_SAMPLE + _PREFIX,),
        generator=torch.Generator("cpu").manual_seed(seed),
        device="cpu",
    ).to(model.device)
    return tokens[:_SAMPLE], tokens[_SAMPLE:]


def _read_by_head(model: PreTrainedModel, sample: Tensor) -> Tensor | None:
    """What the head reads [T, H] in the model's own forward pass; None if it makes no logits."""
    head = output_head(model)
    read: list[Tensor] = []

    def enlarge(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        read.append(inputs[0][0])
        return inputs[0] * _FACTOR

    handle = head.register_forward_pre_hook(enlarge)
    try:
        logits = model(input_ids=sample[None]).logits[0]
    finally:
        handle.remove()
    if len(read) != 1:
        return None
    with _prepared([head.weight], widened=True):
        expected = _FACTOR * read[0] @ head.weight.T
    return read[0] if _alike(logits, expected) else None


def _padded(model: PreTrainedModel, sample: Tensor) -> list[Tensor]:
    """The sample beside a beginning of it, which must not see what follows."""
    beginning = torch.zeros_like(sample)
    beginning[:_PREFIX] = sample[:_PREFIX]
    mask = torch.ones_like(sample).repeat(2, 1)
    mask[1, _PREFIX:] = 0
    states = hidden_states(model, torch.stack([sample, beginning]), mask)
    return [states[0], states[1, :_PREFIX]]


def _packed(model: PreTrainedModel, sample: Tensor, other: Tensor) -> list[Tensor]:
    """A beginning of the sample, another sample, and the sample, in one pack."""
    parts = [sample[:_PREFIX], other, sample]
    lengths = [len(part) for part in parts]
    device = sample.device
    borders = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    segments: Segments = {
        "position_ids": torch.cat([torch.arange(n, device=device) for n in lengths])[None],
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }
    attention = model.config._attn_implementation
    with noted_windows() as windows:
        try:
            states = hidden_states(model, torch.cat(parts)[None], None, segments)[0]
        finally:
            if model.config._attn_implementation != attention:
                model.set_attn_implementation(attention)
        if unknown := windows["masks"] - windows["attention"]:
            raise RuntimeError(f"its attention is not told of its window, {unknown.pop()} tokens")
    first, _, last = states.split(lengths)
    return [last, first]


def _difference(read: Callable[[], list[Tensor]], truth: Tensor) -> str | None:
    """How the sample and its beginning, as they are read, differ from the truth."""
    try:
        states = read()
    except Exception as error:
        return _said(error)
    right = all(_alike(part, truth[: len(part)]) for part in states)
    return None if right else "other hidden states than alone"


def _alike(ours: Tensor, theirs: Tensor) -> bool:
    """Whether all rows of [T, H] agree; nothing agrees with what is not a number."""
    if ours.shape != theirs.shape:
        return False
    error = (ours - theirs).float().norm(dim=-1)
    return bool((error <= _TOLERANCE * theirs.float().norm(dim=-1)).all())


def _said(error: Exception) -> str:
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"


@contextmanager
def _undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without gradients in exact float32, after which all is as it was before."""
    training = model.training
    dtype, precision = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    devices = [model.device] if model.device.type == "cuda" else []
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    model.eval()
    try:
        with (
            torch.random.fork_rng(devices),
            torch.no_grad(),
            torch.backends.cudnn.flags(enabled=False),  # its convolutions round as TF32 does
        ):
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        model.train(training)


@contextmanager
def _whole_parts(model: nn.Module, widened: bool) -> Iterator[None]:
    """Where each layer, and what lies outside of layers, has whole weights while it computes."""
    with ExitStack() as hooks:
        for part, parameters in _parts(model):
            for handle in _prepare(part, parameters, widened):
                hooks.callback(handle.remove)
        yield


def _parts(model: nn.Module) -> Iterator[tuple[nn.Module, list[nn.Parameter]]]:
    """Modules with the weights that they need at one time.

    Layers as a whole, since some read the weights of modules in them that they do not call.
    """
    within: set[nn.Module] = set()
    for module in model.modules():
        if module in within:
            continue
        if isinstance(module, nn.ModuleList):
            for layer in dict.fromkeys(module):
                yield layer, list(layer.parameters())
            within.update(module.modules())
        else:
            yield module, list(module.parameters(recurse=False))


def _prepare(
    part: nn.Module, parameters: list[nn.Parameter], widened: bool
) -> list[RemovableHandle]:
    entered = ExitStack()

    def before(*_: object) -> None:
        entered.enter_context(_prepared(parameters, widened))

    def after(*_: object) -> None:
        entered.close()

    if not parameters:
        return []
    return [
        part.register_forward_pre_hook(before),
        part.register_forward_hook(after, always_call=True),
    ]


@contextmanager
def _prepared(parameters: Sequence[nn.Parameter], widened: bool) -> Iterator[None]:
    """Where weights are whole, and no narrower than float32."""
    with whole(parameters):
        stored = [parameter.data for parameter in parameters]
        try:
            for parameter in parameters if widened else ():
                if parameter.is_floating_point() and parameter.itemsize < 4:
                    parameter.data = parameter.data.float()
            yield
        finally:
            for parameter, data in zip(parameters, stored, strict=True):
                parameter.data = data
