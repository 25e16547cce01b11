"""Memory for the logits of chunks of tokens, of the same size at every step.

A GPU's allocator hands out again what was given back, if it is asked for the same size; sizes that
follow the batch would leave holes into which nothing fits.
"""

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from wdl.losses.matmul import HeadProduct, sum_dtype


class Buffers:
    """Room for the logits of a chunk, C tokens at most.

    Args:
        branches: Whose logits they are; of one vocabulary, V words.
        chunk_bytes: Memory for the logits of a chunk, with a copy for 16-bit products.
        count: How many logits of a chunk exist at a time.

    Attributes:
        rows: C.
        logits: Buffers [C, V], which every chunk overwrites.
    """

    def __init__(self, branches: Sequence[HeadProduct], chunk_bytes: int, count: int = 1) -> None:
        head, dtypes = branches[0].head, {branch.dtype for branch in branches}
        own = sum_dtype(head.dtype)
        width = own.itemsize + (2 if any(dtype.itemsize == 2 for dtype in dtypes) else 0)
        self.rows = max(1, chunk_bytes // (len(head) * width))
        shape = self.rows, len(head)
        self.logits = [head.new_empty(shape, dtype=own) for _ in range(count)]
        narrow = {branch.dtype for branch in branches if branch.trains} - {own}
        self._narrow = {dtype: head.new_empty(shape, dtype=dtype) for dtype in narrow}

    def parts(self, start: int, stop: int) -> Iterator[slice]:
        """Ranges of tokens that fit, as few and as evenly long as can be.

        Without any token there is one empty range, which sets the gradients to 0.
        """
        size = self.even(stop - start)
        for first in range(start, max(stop, start + 1), size):
            yield slice(first, min(first + size, stop))

    def even(self, tokens: int) -> int:
        """How many of some tokens to take at a time: as many as fit, spread evenly."""
        count = max(1, -(-tokens // self.rows))
        return max(1, -(-tokens // count))

    def add_gradients(
        self, residual: Tensor, rows: slice, shares: Iterable[tuple[HeadProduct, float]]
    ) -> None:
        """Take ∂loss/∂z of a chunk into the gradients of the branches that train.

        Args:
            residual: [R, V], one of the buffers; the same for all branches but for a factor.
            rows: Which tokens they are.
            shares: Branches and their factors.
        """
        copies = {residual.dtype: residual}
        for branch, scale in shares:
            if branch.trains:
                if branch.dtype not in copies:
                    narrow = self._narrow[branch.dtype][: len(residual)]
                    copies[branch.dtype] = narrow.copy_(residual)
                branch.add_gradients(copies[branch.dtype], rows, scale)


def sent(values: Sequence[float], dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor of numbers of the host, which does not wait for what a GPU is at.

    From memory that is not pinned, a copy would.
    """
    host = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)
