"""Whole weights of a model whose parameters a strategy may have divided among the processes."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, distributed, nn

from wdl.errors import UserError


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
        weights: By their names in ``model``; None on a process whose weights do not count.

    Raises:
        UserError: A weight is only in one of them, or has another shape.
    """
    own = model.state_dict(keep_vars=True)
    if weights is not None and (odd := own.keys() ^ weights.keys()):
        raise UserError(
            f"ckpt_path: {sorted(odd)[0]} is not both in the checkpoint and in the model "
            f"({len(odd)} such weights); it belongs to another model"
        )
    for name, parameter in own.items():
        with whole([parameter], modified=True):
            if weights is not None:
                if weights[name].shape != parameter.shape:
                    raise UserError(
                        f"ckpt_path: {name} is {list(weights[name].shape)} in the checkpoint and "
                        f"{list(parameter.shape)} in the model; it belongs to another model"
                    )
                parameter.copy_(weights[name])


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
