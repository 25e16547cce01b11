"""Weights that do not train, held in 4 bits: NF4 of QLoRA (Dettmers et al., arXiv 2305.14314).

Blocks of 64 values share a scale in 32 bits, so a weight takes 4.5 bits. Products are of the dtype
that the weights had, which are made again for every product and never kept: bitsandbytes does both,
on GPUs and CPUs (``pip install 'wdl[qlora]'``).
"""

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wdl.errors import UserError
from wdl.system.types import PreTrainedModel

BLOCK = 64


def check_quantised() -> None:
    """Refuse where what quantises is missing."""
    if find_spec("bitsandbytes") is None:
        raise UserError("model.lora.quantised: bitsandbytes is missing; pip install 'wdl[qlora]'")


def quantise(model: PreTrainedModel) -> None:
    """Put quantised layers in place of a decoder's linear ones. The output head stays as it is."""
    decoder = model.get_decoder()
    for name, layer in list(decoder.named_modules()):
        if type(layer) is nn.Linear:
            parent, _, own = name.rpartition(".")
            setattr(decoder.get_submodule(parent), own, QuantisedLinear(layer))


class QuantisedLinear(nn.Linear):
    """A linear layer whose weight is held in 4 bits, does not train and is in no ``state_dict``.

    Args:
        layer: What it stands for.
    """

    def __init__(self, layer: nn.Linear) -> None:
        from bitsandbytes.functional import quantize_4bit

        super(nn.Linear, self).__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.dtype = layer.weight.dtype
        packed, state = quantize_4bit(layer.weight.data, blocksize=BLOCK, quant_type="nf4")
        self.register_buffer("packed", packed, persistent=False)
        # as integers, since a strategy would round what is a float to the dtype of the model
        scales = state.absmax.float().view(torch.int32)
        self.register_buffer("scales", scales, persistent=False)
        self.bias = layer.bias

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[out, in], as near as 4 bits come to it."""
        from bitsandbytes.functional import QuantState, dequantize_4bit

        packed: Any = self.packed
        scales: Any = self.scales
        state = QuantState(
            absmax=scales.view(torch.float32),
            shape=torch.Size((self.out_features, self.in_features)),
            dtype=self.dtype,
            blocksize=BLOCK,
            quant_type="nf4",
        )
        return dequantize_4bit(packed, state)

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        out: Tensor = _Product.apply(input, self)
        return out if self.bias is None else out + self.bias


class _Product(torch.autograd.Function):
    """input · weightᵀ, with a gradient of the input; the weight is not kept for it."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer, ctx.dtype = layer, input.dtype
        return F.linear(input.to(layer.dtype), layer.weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return (gradient @ ctx.layer.weight.to(gradient.dtype)).to(ctx.dtype), None


def quantised_shapes(model: nn.Module) -> dict[str, torch.Size]:
    """Shape of each weight that is held in 4 bits, by the name that it would have."""
    return {
        f"{name}.weight": torch.Size((layer.out_features, layer.in_features))
        for name, layer in model.named_modules()
        if isinstance(layer, QuantisedLinear)
    }
