"""Whole weights of a model whose parameters a strategy may have divided among the processes."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn


def gather_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights on the CPU, on the first process; elsewhere nothing.

    Every process must call this.
    """
    weights = {}
    for name, parameter in model.state_dict(keep_vars=True).items():
        with whole([parameter]):
            if _is_first():
                weights[name] = parameter.detach().to("cpu", copy=True)
    return weights


@torch.no_grad()
def set_weights(model: nn.Module, weights: dict[str, Tensor] | None) -> None:
    """Replace all weights of ``model`` by those of the same names.

    Every process must call this. Where parameters are divided, the first process's count.

    Args:
        model: What its ``state_dict`` leaves out stays as it is.
        weights: Of the same names and shapes; None on a process whose weights do not count.
    """
    for name, parameter in model.state_dict(keep_vars=True).items():
        with whole([parameter], modified=True):
            if weights is not None:
                parameter.copy_(weights[name])


def whole_shapes(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Shape of each weight by its name, whole, also where it is divided."""
    return {name: torch.Size(getattr(w, "ds_shape", w.shape)) for name, w in weights.items()}


def all_finite(model: nn.Module) -> bool:
    """Whether all that this process holds of the trained weights is finite."""
    trained = (parameter for parameter in model.parameters() if parameter.requires_grad)
    return all(bool(torch.isfinite(_held(parameter)).all()) for parameter in trained)


def _held(parameter: Any) -> Tensor:
    """This process's share of a weight, without what fills up the last share."""
    if not hasattr(parameter, "ds_id"):
        return parameter
    share = parameter.ds_tensor.numel()
    rest = parameter.ds_numel - share * distributed.get_rank()
    return parameter.ds_tensor.flatten()[: max(0, min(share, rest))]


def _is_first() -> bool:
    return not distributed.is_initialized() or distributed.get_rank() == 0


def whole(parameters: Sequence[Tensor], modified: bool = False) -> AbstractContextManager:
    """Where parameters of one kind are whole, also those that are divided.

    Args:
        parameters: Of one model.
        modified: Whether they are written; then what the first process writes counts.
    """
    if not parameters or not hasattr(parameters[0], "ds_id"):  # DeepSpeed's mark
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if modified else None)
