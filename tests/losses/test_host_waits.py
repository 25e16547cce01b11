"""How often a loss reads a number from its device: once a call, however many chunks it has.

On a GPU every such moment waits for all that was asked before. What would wait there is counted
here on a CPU, by what Python and torch are asked for.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from test_mixed_loss import TEN_TOKENS, make_pair
from test_preference_loss import TOKEN, make_batch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from wdl.losses.entropy import token_entropy
from wdl.losses.mixed_loss import mixed_linear_cross_entropy
from wdl.losses.preference import Preference

READS = {"tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"}
OF_UNKNOWN_SIZE = {"nonzero", "masked_select", "_local_scalar_dense", "_unique2"}


class _Calls(TorchFunctionMode):
    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (name := getattr(func, "__name__", "")) in READS:
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, seen: Counter[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if name in OF_UNKNOWN_SIZE or any(i is not None and i.dtype == torch.bool for i in indices):
            self.seen[name] += 1
        if name == "repeat_interleave" and not (kwargs or {}).get("output_size"):
            self.seen[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """What was asked for in the block that would wait for a GPU."""
    seen: Counter[str] = Counter()
    with _Calls(seen), _Operators(seen):
        yield seen


PAIR, BATCH = make_pair(torch.float32, tokens=80), make_batch(torch.float32)
WORD = TEN_TOKENS // 10
LOSSES: dict[str, Callable[[int], Tensor]] = {
    "mixed": lambda tokens: mixed_linear_cross_entropy(*PAIR, 0.5, chunk_bytes=WORD * tokens),
    "dynamics": lambda tokens: (
        mixed_linear_cross_entropy(*PAIR, 0.5, chunk_bytes=WORD * tokens, dynamics="full").loss
    ),
    "preference": lambda tokens: BATCH.loss(Preference(nll=0.2), TOKEN * tokens).loss,
}
"""By the tokens of a chunk."""


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("tokens", [10_000, 20, 5])
def test_a_loss_waits_once(loss: str, tokens: int) -> None:
    with waits() as seen:
        LOSSES[loss](tokens).backward()
    assert seen.total() <= 1, seen


def test_entropies_wait_for_nothing() -> None:
    hidden, head = torch.randn(50, 8), torch.randn(101, 8)
    with waits() as seen:
        token_entropy(hidden, head)
    assert not seen


def test_what_waits_is_seen() -> None:
    found = torch.tensor([0, 3, 0, 5])
    with waits() as seen:
        found[found > 0].sum().item()
        found.tolist()
        bool(found[1] > 2)
        torch.arange(4).repeat_interleave(found)
    assert {"tolist", "item", "__bool__", "index", "repeat_interleave"} <= seen.keys()
