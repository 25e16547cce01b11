"""Memory of one process of a fit, by what it is for, and what a checkpoint of it holds.

What a strategy keeps of weights, gradients and optimizer is arithmetic; what a micro-batch holds is
counted by :mod:`wdl.planning.simulation`. Memory that torch does not give out is not in it: CUDA's
own, communication, gaps between blocks.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from wdl.planning.simulation import Held, Loss, MicroBatch, simulate
from wdl.training.optimizer_step import make_optimizer
from wdl.training.pair import Pair

BUCKET = 200_000_000
"""Values that DeepSpeed reduces at a time, as Lightning sets it; one is filled, one sent."""
LIVE = 1_000_000_000
"""Values of divided weights that ZeRO stage 3 keeps whole at most (stage3_max_live_parameters)."""
MASTER = 4
"""Bytes of a value in DeepSpeed's copy of the weights, optimizer state, and last gradient."""


@dataclass(frozen=True)
class Machine:
    """How a fit is spread, and in which numbers.

    Attributes:
        processes: One on each GPU.
        stage: ZeRO stage; None without DeepSpeed.
        offload_optimizer: Whether masters and optimizer state are in the host's memory.
        offload_parameters: Whether the weights are too.
        precision: Lightning's name.
    """

    processes: int
    stage: int | None
    offload_optimizer: bool
    offload_parameters: bool
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        true = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
        return true.get(self.precision, torch.float32)

    @property
    def mixed(self) -> torch.dtype | None:
        """Of products, where it is another."""
        return {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)


@dataclass(frozen=True)
class Memory:
    """Bytes on a GPU, and of a checkpoint on disk.

    Attributes:
        parts: Of what is held, by name, at the backward peak.
        backward: All of them.
        step: At the peak of the optimizer step.
        checkpoint: Of the files of all processes.
    """

    parts: dict[str, int]
    backward: int
    step: int
    checkpoint: int


def memory(
    module: Pair, machine: Machine, batch: MicroBatch, loss: Loss, accumulation: int
) -> Memory:
    """That of a fit.

    Args:
        module: With its branches on the meta device.
        machine: How it is spread.
        batch: Its largest micro-batch.
        loss: How the loss goes through that.
        accumulation: Micro-batches of a step on each process.
    """
    weights = list(module.parameters())
    trained = [weight for weight in weights if weight.requires_grad]
    all_bytes, values = _size(weights), sum(weight.numel() for weight in trained)
    gradient, share, zero = _size(trained), machine.processes, machine.stage or 0
    # gradients that stay while another micro-batch brings its own; otherwise one by one they come
    stay = accumulation > 1
    held = simulate(module, batch, loss, machine.mixed, keeps_gradients=not zero and not stay)
    states = round(values * (MASTER if zero else machine.dtype.itemsize) * _states(module))
    masters = values * MASTER if zero else 0
    checkpoint = _stored(module) * (zero < 3) + masters + states
    if zero:
        masters, states = (
            0 if machine.offload_optimizer else -(-n // share) for n in (masters, states)
        )
    parts = {"weights": all_bytes}
    if zero == 3:
        most = LIVE + max(weight.numel() for weight in weights)
        whole = min(sum(weight.numel() for weight in weights), most) * machine.dtype.itemsize
        own = 0 if machine.offload_parameters else -(-all_bytes // share)
        parts = {"weights": own, "weights gathered": whole if share > 1 or not own else 0}
    parts |= {"fp32 masters": masters, "optimizer state": states}
    if zero >= 2:
        kept = 0 if machine.offload_optimizer else -(-gradient // share) * (1 + stay)
    elif zero:
        kept = gradient if stay else -(-gradient // share)
    else:
        kept = gradient if stay else 0
    parts["gradients"] = kept
    if zero:
        parts["buckets"] = 2 * BUCKET * machine.dtype.itemsize
    elif share > 1:
        parts["buckets"] = gradient
    parts |= _phases(held)
    static = sum(parts[n] for n in ("weights", "fp32 masters", "optimizer state"))
    if not zero:
        step = static + 2 * gradient  # AdamW's root of the second moment, of all weights at once
    elif machine.offload_optimizer:
        step = static
    else:
        step = static + -(-(gradient + 2 * MASTER * values) // share)
    return Memory(parts, sum(parts.values()), step, checkpoint)


def _phases(held: Held) -> dict[str, int]:
    return {"activations": held.activations, "loss and backward pass": held.peak - held.activations}


def _size(weights: list[nn.Parameter]) -> int:
    return sum(weight.numel() * weight.element_size() for weight in weights)


def _stored(module: Pair) -> int:
    """Bytes of the weights that a checkpoint holds."""
    named = module.named_parameters()
    return _size([weight for name, weight in named if not module.is_frozen(name)])


def _states(module: Pair) -> float:
    """Values that the optimizer keeps for each weight."""
    weight = nn.Parameter(torch.zeros(64, 64))
    optimizer = make_optimizer(module.optimizer, [weight])
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    kept: list[Any] = list(optimizer.state[weight].values())
    return round(sum(k.numel() for k in kept if torch.is_tensor(k)) / weight.numel(), 2)
