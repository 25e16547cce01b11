"""Whole weights of a model whose parameters a strategy may have divided among the processes."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, distributed, nn

from wdl.errors import UserError


def gather_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights on the CPU, on the first process; elsewhere nothing.

    Every process must call this.
    """
    weights = {}
    for name, parameter in model.state_dict(keep_vars=True).items():
        with _whole(parameter):
            if _is_first():
                weights[name] = parameter.detach().cpu().clone()
    return weights


@torch.no_grad()
def set_weights(model: nn.Module, weights: dict[str, Tensor] | None) -> None:
    """Replace all weights of ``model`` by those of the same names.

    Every process must call this. Where parameters are divided, the first process's count.

    Args:
        model: What its ``state_dict`` leaves out stays as it is.
        weights: By their names in ``model``; None on a process whose weights do not count.

    Raises:
        UserError: A weight is missing or has another shape.
    """
    own = model.state_dict(keep_vars=True)
    if weights is not None and (missing := own.keys() - weights.keys()):
        raise UserError(
            f"ckpt_path: the checkpoint lacks {sorted(missing)[0]} ({len(missing)} weights are "
            "missing); it belongs to another model"
        )
    for name, parameter in own.items():
        with _whole(parameter, modified=True):
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
    held = (getattr(parameter, "ds_tensor", parameter) for parameter in trained)
    return all(bool(torch.isfinite(weight).all()) for weight in held)


def _is_first() -> bool:
    return not distributed.is_initialized() or distributed.get_rank() == 0


def _whole(parameter: Tensor, modified: bool = False) -> AbstractContextManager:
    if not hasattr(parameter, "ds_id"):  # DeepSpeed's mark
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if modified else None)
