"""Packs: nothing lost, none too long, and next to no room left, whatever the lengths."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray

from wdl.data.packing import pack

Draw = Callable[[Generator, int], NDArray[np.int64]]


def short(rng: Generator, n: int) -> NDArray[np.int64]:
    """Like GSM8K: prompts of 77 tokens, answers of 87."""
    return rng.poisson(77, n) + rng.gamma(10, 8.7, n).astype(np.int64) + 1


def long(rng: Generator, n: int) -> NDArray[np.int64]:
    """Like long chains of thought, cut at the size of a pack."""
    return np.exp(rng.normal(np.log(1800), 0.75, n)).astype(np.int64).clip(1, 4096)


def wide(rng: Generator, n: int) -> NDArray[np.int64]:
    return rng.integers(1, 4097, n)


def alike(rng: Generator, n: int) -> NDArray[np.int64]:
    return np.full(n, rng.integers(1, 4097))


@pytest.mark.parametrize("draw", [short, long, wide, alike])
@pytest.mark.parametrize("n", [0, 1, 7, 300, 3000])
def test_nothing_is_lost_and_no_pack_is_too_long(draw: Draw, n: int) -> None:
    lengths = draw(np.random.default_rng(n), n)
    packs = pack(lengths, 4096)
    assert sorted(position for members in packs for position in members) == list(range(n))
    assert all(0 < lengths[members].sum() <= 4096 for members in packs)


@pytest.mark.parametrize("draw", [short, long])
def test_the_order_of_samples_changes_no_pack(draw: Draw) -> None:
    lengths = draw(np.random.default_rng(0), 500)
    shuffled = np.random.default_rng(1).permutation(lengths)
    ours, theirs = (
        [lens[members].tolist() for members in pack(lens, 4096)] for lens in (lengths, shuffled)
    )
    assert ours == theirs


@pytest.mark.parametrize(("draw", "excess"), [(short, 0.004), (long, 0.005)])
def test_packs_leave_little_room(draw: Draw, excess: float) -> None:
    lengths = draw(np.random.default_rng(0), 50_000)
    least = lengths.sum() / 4096
    assert len(pack(lengths, 4096)) <= (1 + excess) * least


def test_packs_by_hand() -> None:
    # 35 leaves 5, which 4 does not fill, but 3 and 2 do
    assert pack(np.array([4, 3, 35, 2]), 40) == [[2, 1, 3], [0]]
    # with room 19, the longest goes first, though 10 and 9 would fill it
    assert pack(np.array([10, 21, 18, 9]), 40) == [[1, 2], [0, 3]]
    # one of a length is no pair
    assert pack(np.array([35, 3, 2, 1, 1, 1]), 40) == [[0, 1, 2], [5, 4, 3]]
    assert pack(np.array([36, 3, 2]), 40) == [[0, 1], [2]]
