"""One numerical look at a loaded model, instead of lists of architectures that are known to work.

Training reads a branch in ways of its own: hidden states and the head's weight instead of logits,
packs or padded rows instead of samples. What comes out must be what the model's own forward pass
makes of each sample alone. A few tokens show it.

The weights are widened to float32 while they compute, one layer at a time, so that rounding cannot
be taken for a fault, nor a fault for rounding; and gathered, where a strategy has divided them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from wdl.branches.packed_attention import Segments, attention_of, set_attention, untold_windows
from wdl.branches.reading import hidden_states, output_head
from wdl.branches.whole_weights import whole
from wdl.errors import UserError
from wdl.system.types import PreTrainedModel

if TYPE_CHECKING:
    from wdl.branches.vision import Vision

_SEEDS = (0, 1)
"""Of the samples. Rounding may send a token to other experts, so that one sample does not condemn a
model; a fault shows in every one."""
_SAMPLE, _BEGINNING = 21, 9
_TOLERANCE = torch.finfo(torch.float32).eps ** 0.5
"""Relative error of a token's hidden states: half of the digits. In tiny models rounding stays
below 2e-6, and the smallest fault seen is 3e-3."""
_ANOTHER = "choose another model"
_FACTOR = 100.0
"""Hidden states are enlarged before the head, or a cap far above the logits would not show."""


class _Sample(NamedTuple):
    """Tokens [T] of a sample, of one that begins otherwise, and what reads their pictures."""

    tokens: Tensor
    other: Tensor
    vision: "Vision | None"


def probe(
    model: PreTrainedModel, source: str, packed: bool, vision: "Vision | None" = None
) -> None:
    """Refuse a model that training would read wrongly. Every process must call this.

    Args:
        model: As it was loaded. It is left as it was, and so are all random numbers.
        source: Where it came from.
        packed: Whether it is to read packs, instead of samples padded on the right.
        vision: The processor of a vision-language model, whose samples then have pictures.

    Raises:
        UserError: Names the architecture, and what works instead.
    """
    with _undisturbed(model):
        samples = [_sample(model, seed, vision) for seed in _SEEDS]
        with _whole_parts(model, widened=True):
            faults = (_fault(model, sample, packed) for sample in samples)
            fault = next(faults) and next(faults)
        if fault is None:
            with _whole_parts(model.train(), widened=False):  # dropout, and kernels for the dtype
                reading = _packed if packed else _padded
                failure = _difference(lambda: reading(model, samples[0]))
            mode = "to pack, which data.max_tokens asks for," if packed else "to read"
            fault = failure and f"fails {mode} in training ({failure}); {_ANOTHER}"
    if fault is not None:
        raise UserError(f"{source}: {type(model).__name__} {fault}")


def _fault(model: PreTrainedModel, sample: _Sample, packed: bool) -> str | None:
    truth: list[Tensor] = []
    if failure := _difference(lambda: _read_by_head(model, sample, truth)):
        return f"fails in its forward pass ({failure}); {_ANOTHER}"
    if not truth:
        return (
            "caps, scales or shifts its logits after the product of hidden states and output head, "
            f"which is all that the losses know, or they are not finite; {_ANOTHER}"
        )
    row = sample.tokens[None]
    if failure := _difference(lambda: [_states(model, sample, row, row > -1)[0]], truth[0]):
        return f"does not give the hidden states that its output head reads ({failure}); {_ANOTHER}"
    by_packing = packed and _difference(lambda: _packed(model, sample), truth[0])
    if packed and not by_packing:
        return None
    by_padding = _difference(lambda: _padded(model, sample), truth[0])
    if not by_packing:
        return by_padding and f"cannot read padded samples ({by_padding}); {_ANOTHER}"
    remedy = _ANOTHER if by_padding else "leave data.max_tokens out, as it reads padded samples"
    return f"cannot read packs ({by_packing}); {remedy}"


def _sample(model: PreTrainedModel, seed: int, vision: "Vision | None") -> _Sample:
    """Random tokens, with a picture in the middle or at the beginning if the model sees."""
    generator = torch.Generator("cpu").manual_seed(seed)
    size = model.config.get_text_config().vocab_size
    drawn = torch.randint(size, (_SAMPLE + _BEGINNING,), generator=generator, device="cpu")
    tokens, other = drawn.split((_SAMPLE, _BEGINNING))
    if vision is not None:
        drawn[drawn == vision.image_token] = 0
        picture = torch.tensor(vision.blank[0])
        tokens = torch.cat([tokens[:_BEGINNING], picture, tokens[_BEGINNING:]])
        other = torch.cat([picture, other])
    return _Sample(tokens.to(model.device), other.to(model.device), vision)


def _states(
    model: PreTrainedModel,
    sample: _Sample,
    rows: Tensor,
    mask: Tensor | None,
    segments: Segments | None = None,
) -> Tensor:
    """Hidden states of rows [B, T] that are made of parts of the sample."""
    mask = None if mask is None else mask.long()
    return hidden_states(model, rows, mask, segments, _pictures(sample, rows))


def _pictures(sample: _Sample, rows: Tensor) -> dict[str, Tensor] | None:
    """What the model reads of the pictures in some rows."""
    if sample.vision is None:
        return None
    tokens, image = sample.vision.blank
    count = int((rows == sample.vision.image_token).sum()) // tokens.count(
        sample.vision.image_token
    )
    inputs = sample.vision.inputs(rows, [image] * count)
    return {name: value.to(rows.device) for name, value in inputs.items()}


def _read_by_head(model: PreTrainedModel, sample: _Sample, truth: list[Tensor]) -> list[Tensor]:
    """Put what the head reads [T, H] in the model's own forward pass into ``truth``.

    Nothing is put there if it is not all that the logits are made of.
    """
    head, read = output_head(model), []

    def enlarge(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        read.append(inputs[0][0])
        return inputs[0] * _FACTOR

    handle = head.register_forward_pre_hook(enlarge)
    try:
        row = sample.tokens[None]
        logits = model(input_ids=row, **(_pictures(sample, row) or {})).logits[0]
    finally:
        handle.remove()
    if read and _alike(logits, _FACTOR * read[0] @ head.weight.T):
        truth += read
    return read


def _padded(model: PreTrainedModel, sample: _Sample) -> list[Tensor]:
    """The sample beside a beginning of it, which must not see what follows."""
    rows, mask = sample.tokens.repeat(2, 1), torch.ones_like(sample.tokens).repeat(2, 1)
    rows[1, _BEGINNING:], mask[1, _BEGINNING:] = 0, 0
    states = _states(model, sample, rows, mask)
    return [states[0], states[1, :_BEGINNING]]


def _packed(model: PreTrainedModel, sample: _Sample) -> list[Tensor]:
    """A beginning of the sample, another sample, and the sample, in one pack."""
    parts, device = [sample.tokens[:_BEGINNING], sample.other, sample.tokens], model.device
    lengths = [len(part) for part in parts]
    borders = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    positions = [torch.arange(length, device=device) for length in lengths]
    segments: Segments = {
        "position_ids": torch.cat(positions)[None],
        "cu_seq_lens_q": borders,
        "cu_seq_lens_k": borders,
        "max_length_q": max(lengths),
        "max_length_k": max(lengths),
    }
    attention = attention_of(model)
    untold_windows.clear()
    try:
        states = _states(model, sample, torch.cat(parts)[None], None, segments)[0]
    finally:
        if attention_of(model) != attention:
            set_attention(model, attention)
    if untold_windows:  # longer than these samples
        raise RuntimeError("attention is not told of the window that its mask is made for")
    first, _, last = states.split(lengths)
    return [last, first]


def _difference(read: Callable[[], list[Tensor]], truth: Tensor | None = None) -> str | None:
    """How what is read differs from the truth, or from working at all."""
    try:
        states = read()
    except Exception as error:  # whatever a model's own code raises
        return f"{type(error).__name__}: {error}".splitlines()[0]
    if truth is None or all(_alike(part, truth[: len(part)]) for part in states):
        return None
    return "hidden states other than those of a sample alone"


def _alike(ours: Tensor, theirs: Tensor) -> bool:
    """Whether all rows of [T, H] agree; nothing agrees with what is not a number."""
    if ours.shape != theirs.shape:
        return False
    error = (ours - theirs).float().norm(dim=-1)
    return bool((error <= _TOLERANCE * theirs.float().norm(dim=-1)).all())


@contextmanager
def _undisturbed(model: PreTrainedModel) -> Iterator[None]:
    """Evaluation mode without gradients in exact float32, after which all is as it was before."""
    training, dtype = model.training, torch.get_default_dtype()
    precision = torch.get_float32_matmul_precision()
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.random.fork_rng([model.device] if model.device.type == "cuda" else []),
            torch.no_grad(),
            torch.backends.cudnn.flags(enabled=False),  # its convolutions round as TF32 does
        ):
            model.eval()
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_float32_matmul_precision(precision)
        model.train(training)


@contextmanager
def _whole_parts(model: nn.Module, widened: bool) -> Iterator[None]:
    """Where layers have whole weights while they compute, and what is outside of them always.

    A layer as a whole, since some read the weights of modules in them that they do not call.
    """
    layers: list[nn.Module] = []
    within: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and module not in within:
            layers.extend(dict.fromkeys(module))
            within.update(module.modules())
    shared = {weight for layer in layers for weight in layer.parameters()}
    with ExitStack() as stack:
        stack.enter_context(_prepared([w for w in model.parameters() if w not in shared], widened))
        for layer in layers:
            entered = ExitStack()
            before = partial(_enter, entered, list(layer.parameters()), widened)
            after = partial(_leave, entered)
            stack.callback(layer.register_forward_pre_hook(before).remove)
            stack.callback(layer.register_forward_hook(after, always_call=True).remove)
        yield


def _enter(entered: ExitStack, weights: list[nn.Parameter], widened: bool, *_: object) -> None:
    entered.enter_context(_prepared(weights, widened))


def _leave(entered: ExitStack, *_: object) -> None:
    entered.close()


@contextmanager
def _prepared(weights: Sequence[Tensor], widened: bool) -> Iterator[None]:
    """Where weights are whole, and no narrower than float32."""
    with whole(weights):
        stored = [weight.data for weight in weights]
        try:
            for weight in weights if widened else ():
                if weight.is_floating_point() and weight.itemsize < 4:
                    weight.data = weight.data.float()
            yield
        finally:
            for weight, data in zip(weights, stored, strict=True):
                weight.data = data
