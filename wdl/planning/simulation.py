"""A micro-batch that runs without memory: the real branches on tensors that have no content.

On torch's meta device tensors have a shape, a dtype and a life. So what a forward and a backward
pass hold at most is counted, not estimated: of transformers' models, autograd, and gradient
checkpointing. Three things are stood in for, by what they allocate on a GPU: kernels of attention,
which keep their operands, their output and one number per head and token; the fused loss; and
autocast, which a meta device does not know.
"""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from wdl.branches.loading import check_head
from wdl.branches.lora import add_adapter
from wdl.branches.packed_attention import set_attention
from wdl.branches.sources import load_config, model_class
from wdl.data.batches import Batch
from wdl.losses.chunks import BLOCKS_PER_CHUNK
from wdl.losses.matmul import sum_dtype
from wdl.system.types import PreTrainedModel
from wdl.training.pair import Pair

_ATTENTION = "wdl_simulated"
_PRODUCTS = (F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm)
"""What autocast narrows."""


@dataclass(frozen=True)
class MicroBatch:
    """The largest forward pass of one process.

    Attributes:
        tokens: With padding.
        counted: Tokens that the output head reads.
    """

    tokens: int
    counted: int


@dataclass(frozen=True)
class Loss:
    """How the loss goes through its tokens.

    Attributes:
        chunk_bytes: Memory for the logits of a chunk.
        full: Whether it records full dynamics, which keep the logits of both branches.
    """

    chunk_bytes: int
    full: bool


@dataclass(frozen=True)
class Held:
    """Bytes that a forward and a backward pass hold beside weights.

    Attributes:
        activations: When both branches have been read, before the loss.
        peak: At most, at any time.
    """

    activations: int
    peak: int


class LiveBytes(TorchDispatchMode):
    """Bytes of all tensors that have been made under this mode and not been freed.

    Attributes:
        now: At present.
        peak: At most.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run ``func`` and look at what it has made."""
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self.see(leaf)
        return made

    def see(self, tensor: Tensor, counts: bool = True) -> None:
        """Count the memory of a tensor, or never count it."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes() if counts else 0

        def free(_: Any) -> None:
            self._seen.pop(key, None)
            self.now -= size

        self._seen[key] = weakref.ref(storage, free)
        self.now += size
        self.peak = max(self.peak, self.now)


def add_branches(module: Pair, dtype: torch.dtype) -> None:
    """Give a module its branches as it would load them, on the meta device.

    Raises:
        UserError: A configuration cannot be read, or the model or an adapter does not fit.
    """
    for name, source in module.sources.items():
        if module.lora is not None and name == "weak":
            continue
        config = load_config(source if module.lora is None else module.base)
        narrow = getattr(torch, str(module.weak_dtype)) if module.weak_dtype else dtype
        with torch.device("meta"):
            branch: PreTrainedModel = model_class(config).from_config(
                config, dtype=narrow if name == "weak" else dtype
            )
            check_head(branch, str(source))
            if module.lora is not None:
                add_adapter(branch, module.lora)
        module.add_branch(name, branch.train())


def simulate(
    module: Pair, batch: MicroBatch, loss: Loss, mixed: torch.dtype | None, keeps_gradients: bool
) -> Held:
    """Run a micro-batch.

    Args:
        module: With its branches on the meta device.
        batch: The micro-batch.
        loss: How the loss goes through it.
        mixed: Dtype of products in mixed precision.
        keeps_gradients: Whether gradients stay with their weights, and count.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(_ATTENTION, partial(_attention, dtype=mixed))
    AttentionMaskInterface.register(_ATTENTION, _no_mask)
    for branch in module.branches.values():
        set_attention(cast(PreTrainedModel, branch), _ATTENTION)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    hooks = [
        parameter.register_post_accumulate_grad_hook(_drop)
        for parameter in ([] if keeps_gradients else trained)
    ]
    autocast = nullcontext() if mixed is None else _Autocast(mixed)
    if mixed is not None and module.gradient_checkpointing:
        again = partial(_while_recomputing, mixed)
        for name, branch in module.branches.items():
            if module.trains(name) != "nothing":
                options = {"use_reentrant": False, "context_fn": again}
                cast(PreTrainedModel, branch).gradient_checkpointing_enable(options)
    with LiveBytes() as live, torch.device("meta"):
        for tensor in (*module.parameters(), *module.buffers()):
            live.see(tensor, counts=False)
        ids = torch.zeros(1, batch.tokens, dtype=torch.int64)
        read = cast(Batch, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        kept = torch.zeros(batch.counted, dtype=torch.int64)
        with autocast as weights:
            operands = [module.hidden(name, read) for name in module.sources]
            activations = live.now
            pairs = [each for h, head in operands for each in (h.index_select(0, kept), head)]
            result = _FusedLoss.apply(loss, mixed, *pairs)
            del operands, pairs
            if weights is not None:
                weights.forget()
            result.backward()
    for hook in hooks:
        hook.remove()
    for parameter in trained:
        parameter.grad = None
    return Held(activations, live.peak)


def _drop(parameter: Tensor) -> None:
    parameter.grad = None


class _Autocast(TorchFunctionMode):
    """Narrows the operands of products; of weights that train, once in a forward pass."""

    def __init__(self, dtype: torch.dtype, keeps: bool = True) -> None:
        super().__init__()
        self.dtype = dtype
        self._cast: dict[Tensor, Tensor] | None = {} if keeps else None

    def forget(self) -> None:
        """The forward pass is over: what is recomputed is narrowed anew."""
        self._cast = None

    def __torch_function__(
        self, func: Callable, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run ``func``."""
        if func in _PRODUCTS:
            args, kwargs = tree_map(self._narrow, (args, kwargs))
        return func(*args, **(kwargs or {}))

    def _narrow(self, operand: Any) -> Any:
        if not isinstance(operand, Tensor) or operand.dtype != torch.float32:
            return operand
        if self._cast is None or not (operand.is_leaf and operand.requires_grad):
            return operand.to(self.dtype)
        if operand not in self._cast:
            self._cast[operand] = operand.to(self.dtype)
        return self._cast[operand]


def _while_recomputing(dtype: torch.dtype) -> tuple[AbstractContextManager, _Autocast]:
    """For checkpoints: what is on besides in the first pass, and in the second."""
    return nullcontext(), _Autocast(dtype, keeps=False)


class _Kernel(torch.autograd.Function):
    """Keeps what a kernel of attention keeps."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = torch.empty_like(query)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(each) for each in ctx.saved_tensors[:3])


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: None,
    dtype: torch.dtype | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention by the interface of transformers, with a head of keys for each of queries."""
    groups = query.shape[1] // key.shape[1]
    query, key, value = (each.to(dtype or each.dtype) for each in (query, key, value))
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    out = cast(Tensor, _Kernel.apply(query, key, value))
    return out.transpose(1, 2).contiguous(), None


def _no_mask(*args: Any, **options: Any) -> None:
    """The mask that transformers asks for: there is none."""


class _FusedLoss(torch.autograd.Function):
    """Allocates what :func:`wdl.losses.linear_loss.linear_loss` does on a GPU."""

    @staticmethod
    def forward(ctx: Any, loss: Loss, mixed: torch.dtype | None, *tensors: Tensor) -> Tensor:
        read = [each if mixed is None else each.to(mixed) for each in tensors]
        wide = sum_dtype(tensors[0].dtype)
        needs = ctx.needs_input_grad[2:]
        ctx.dtypes = [each.dtype for each in tensors]
        ctx.gradients = [
            torch.empty_like(each, dtype=wide) if need else None
            for each, need in zip(tensors, needs, strict=True)
        ]
        tokens, vocabulary, narrow = len(read[0]), len(read[1]), read[1].dtype != wide
        width = wide.itemsize + (read[1].dtype.itemsize if narrow else 0)
        # buffers have one size at every step, however few tokens there are
        room = max(1, loss.chunk_bytes // (vocabulary * width))
        rows = -(-tokens // max(1, -(-tokens // room)))
        branches = len(tensors) // 2
        logits = [
            torch.empty(room, vocabulary, dtype=wide) for _ in range(branches if loss.full else 1)
        ]
        residual = torch.empty(room if narrow else 0, vocabulary, dtype=read[1].dtype)
        # of softmax and statistics, a part of the chunk at a time
        scratch = torch.empty(2, -(-rows // BLOCKS_PER_CHUNK) if loss.full else 0, vocabulary)
        del scratch
        del logits, residual
        return torch.empty((), dtype=wide)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[Tensor | None, ...]:
        given: list[Tensor | None] = []
        while ctx.gradients:
            summed = ctx.gradients.pop(0)
            given.append(None if summed is None else summed.to(ctx.dtypes[len(given)]))
        return None, None, *given
