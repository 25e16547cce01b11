"""A GPU for machines that have none: tensors on cuda:0 with shapes and dtypes, without values.

Code takes its CUDA paths with them, at the size of a real model, and every operation is written
down. What torch's CPU build cannot do with such tensors is stood in for: indexing, pinned memory,
and writing in place, which gives back what was to be written. There is no autograd.
"""

from contextlib import ExitStack
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class Call(NamedTuple):
    """An operation: its name, what it was given by place and by name, and what came out."""

    name: str
    given: tuple[Any, ...]
    options: dict[str, Any]
    result: Any


class FakeCuda(ExitStack):
    """Where tensors may be on cuda:0.

    Attributes:
        calls: All operations.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)

    def __enter__(self) -> Self:
        super().__enter__()
        for each in (self._mode, torch.no_grad(), _Indexing(), _Recorder(self.calls)):
            self.enter_context(each)
        return self

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Some tensor."""
        return self._there(torch.empty(*shape, dtype=dtype, device="meta"))

    def move(self, model: nn.Module) -> None:
        """Put a model of the meta device there."""
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                moved = nn.Parameter(self._there(weight.detach()), requires_grad=False)
                module.register_parameter(name, moved)
            for name, value in module.named_buffers(recurse=False):
                module.register_buffer(name, self._there(value))

    def of(self, *names: str) -> list[Call]:
        """The operations of some names."""
        return [call for call in self.calls if call.name in names]

    def _there(self, tensor: Tensor) -> Tensor:
        return FakeTensor(self._mode, tensor.to("meta"), torch.device("cuda", 0))


class _Recorder(TorchDispatchMode):
    def __init__(self, calls: list[Call]) -> None:
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known, places = kwargs or {}, func._schema.arguments
        written = [i for i, a in enumerate(places) if a.alias_info and a.alias_info.is_write]
        if written:
            name = places[written[0]].name
            result = known[name] if name in known else args[written[0]]
        else:
            result = func(*args, **known)
        self.calls.append(Call(str(func), args, known, result))
        return result


class _Indexing(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.copy_, Tensor.__setitem__):
            return args[0]
        if func is Tensor.contiguous:
            return torch.ops.aten.clone(args[0], memory_format=torch.contiguous_format)
        if func is not Tensor.__getitem__:
            known = {name: value for name, value in (kwargs or {}).items() if name != "pin_memory"}
            return func(*args, **known)
        tensor, index = args
        index = index if isinstance(index, tuple) else (index,)
        taken, dim = sum(each is not None and each is not ... for each in index), 0
        aten = torch.ops.aten
        for each in index:
            if each is ...:
                dim += tensor.dim() - taken
            elif each is None:
                tensor, dim, taken = aten.unsqueeze(tensor, dim), dim + 1, taken + 1
            elif isinstance(each, slice):
                tensor = aten.slice.Tensor(tensor, dim, each.start, each.stop, each.step or 1)
                dim += 1
            elif isinstance(each, Tensor):
                tensor, dim = aten.index_select(tensor, dim, each), dim + 1
            else:
                tensor, taken = aten.select.int(tensor, dim, each), taken - 1
        return tensor
