"""The products of the losses on CUDA: 16-bit operands into float32, in memory of one size.

Without a GPU: tensors are faked, so what is seen is which products run, and on what.
"""

import pytest
import torch
from fake_cuda import FakeCuda
from torch import Tensor

from wdl.losses.chunks import MixedChunks, SequenceChunks
from wdl.losses.entropy import token_entropy
from wdl.losses.logit_statistics import DynamicsLevel
from wdl.losses.matmul import HeadProduct
from wdl.losses.mixed_loss import CHUNK_BYTES

VOCABULARY, HIDDEN = 151_936, 2560
PRODUCTS = {
    f"aten.{name}" for name in ("mm.default", "addmm.default", "addmm.out", "addmm.dtype_out")
} | {"aten.mm.out", "aten.bmm.default", "aten.mm.dtype", "aten.mm.dtype_out"}
ALLOCATIONS = ("aten.new_empty.default", "aten.empty_like.default", "aten._to_copy.default")
BF16, FP32 = torch.bfloat16, torch.float32


def branch(cuda: FakeCuda, tokens: int, trains: bool = True, hidden: int = HIDDEN) -> HeadProduct:
    states, head = (
        cuda.tensor(tokens, hidden, dtype=BF16),
        cuda.tensor(VOCABULARY, hidden, dtype=BF16),
    )
    return HeadProduct(states, head, trains, trains)


def run(tokens: int, level: DynamicsLevel = "off", frozen: bool = False) -> FakeCuda:
    """The mixed loss of a pair, and what it did."""
    with FakeCuda() as cuda:
        labels = cuda.tensor(tokens, dtype=torch.int64)
        pair = branch(cuda, tokens), branch(cuda, tokens, not frozen, hidden=1024)
        loss = MixedChunks(0.5, max(tokens, 1), level, CHUNK_BYTES["cuda"]).loss(labels, *pair)
    assert (loss.dtype, loss.shape, loss.is_cuda) == (FP32, (), True)
    return cuda


def operands(cuda: FakeCuda) -> list[tuple[torch.dtype, ...]]:
    """Dtypes of the result and both operands of each product."""
    products = [call for call in cuda.calls if call.name in PRODUCTS]
    given = [[each for each in call.given if isinstance(each, Tensor)][-2:] for call in products]
    return [
        (call.result.dtype, first.dtype, second.dtype)
        for call, (first, second) in zip(products, given, strict=True)
    ]


def sizes(cuda: FakeCuda) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """What was allocated, of matrices with a column for each word."""
    made = [call.result for call in cuda.of(*ALLOCATIONS)]
    return [(tuple(m.shape), m.dtype) for m in made if m.dim() == 2 and m.shape[1] == VOCABULARY]


@pytest.mark.parametrize(
    ("level", "frozen"), [("off", False), ("off", True), ("cheap", False), ("full", True)]
)
def test_every_large_product_is_of_16_bits_into_float32(level: DynamicsLevel, frozen: bool) -> None:
    cuda = run(2000, level, frozen)
    found, chunks = operands(cuda), 2
    # logits of both branches; gradients of hidden states and head of those that train
    assert found == [(FP32, BF16, BF16)] * chunks * (4 if frozen else 6)
    assert not [call for call in cuda.of("aten._to_copy.default") if call.result.numel() > 1e8]


def test_a_chunk_is_narrowed_once_for_both_branches() -> None:
    frozen, both = (run(2000, frozen=frozen) for frozen in (True, False))
    assert len(operands(both)) - len(operands(frozen)) == 2 * 2
    # logits in float32, their copy in 16 bits
    assert len(sizes(both)) == len(sizes(frozen)) == 2


def test_memory_of_logits_has_one_size_whatever_the_batch() -> None:
    seen = [sizes(run(tokens)) for tokens in (0, 1, 100, 2000)]
    assert all(each == seen[0] for each in seen)
    (logits, full), (copies, half) = seen[0]
    assert logits == copies and (full, half) == (FP32, BF16)
    assert 0.99 * CHUNK_BYTES["cuda"] < logits[0] * VOCABULARY * 6 <= CHUNK_BYTES["cuda"]


@pytest.mark.parametrize("question", [300, 2000])
def test_preferences_multiply_alike(question: int) -> None:
    with FakeCuda() as cuda:
        labels = cuda.tensor(4 * question, dtype=torch.int64)
        chunks = SequenceChunks(
            lengths=[question] * 4,
            ties=[(0, 1), (2, 3)],
            loss_of=lambda sequences, sums: sums.sum(),
            denominator=2,
            chunk_bytes=CHUNK_BYTES["cuda"],
        )
        chunks.loss(labels, branch(cuda, 4 * question, trains=False))
    assert set(operands(cuda)) == {(FP32, BF16, BF16)}


def test_entropies_multiply_alike() -> None:
    with FakeCuda() as cuda:
        token_entropy(
            cuda.tensor(500, HIDDEN, dtype=BF16), cuda.tensor(VOCABULARY, HIDDEN, dtype=BF16)
        )
    assert set(operands(cuda)) == {(FP32, BF16, BF16)}
