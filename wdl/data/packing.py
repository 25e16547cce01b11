"""Packs: which samples share a row, so that next to none of it stays empty."""

import numpy as np
from numpy.typing import NDArray

LOOK_AHEAD = 1 / 8
"""Share of a pack below which its room may go to two samples. In more room than that, a large
sample deferred costs more packs later than the gap it would leave: large ones are hard to place."""


def pack(lengths: NDArray[np.int64], max_tokens: int) -> list[list[int]]:
    """Fill one pack after the other: the longest sample that fits, or two that fit exactly.

    The number of packs depends on the lengths alone, not on their order. Takes O(n) steps, each on
    a set of ``max_tokens`` bits.

    Args:
        lengths: [n] tokens of each sample, 1 to ``max_tokens``.
        max_tokens: Tokens of a pack.

    Returns:
        Positions in ``lengths`` that share a pack.
    """
    left = _Lengths(lengths, max_tokens)
    packs = []
    while left.present:
        members, room = [], max_tokens
        while size := left.longest(room):
            if size < room <= max_tokens * LOOK_AHEAD:
                size = left.longest_of_pair(room) or size
            members.append(left.take(size))
            room -= size
        packs.append(members)
    return packs


class _Lengths:
    """The samples that are not packed yet, by length.

    Which lengths there are is kept as the bits of a number, so that one operation looks at all.
    """

    def __init__(self, lengths: NDArray[np.int64], max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._positions: list[list[int]] = [[] for _ in range(max_tokens + 1)]
        for position, size in enumerate(lengths.tolist()):
            self._positions[size].append(position)
        self.present = 0
        self._mirrored = 0  # bit max_tokens - n for length n
        for size, positions in enumerate(self._positions):
            if positions:
                self._flip(size)

    def _flip(self, size: int) -> None:
        self.present ^= 1 << size
        self._mirrored ^= 1 << (self._max_tokens - size)

    def take(self, size: int) -> int:
        """Position of a sample of ``size`` tokens, which is gone then."""
        positions = self._positions[size]
        position = positions.pop()
        if not positions:
            self._flip(size)
        return position

    def longest(self, room: int) -> int:
        """Length of the longest sample of at most ``room`` tokens; 0 without any."""
        return _highest(self.present & ((2 << room) - 1))

    def longest_of_pair(self, room: int) -> int:
        """Length of the longer of two samples that have ``room`` tokens together; 0 without any."""
        pairs = self.present & (self._mirrored >> (self._max_tokens - room))
        longer = _highest(pairs)
        alone = 2 * longer == room and len(self._positions[longer]) == 1
        return 0 if alone else longer


def _highest(bits: int) -> int:
    """The highest number in a set of positive numbers; 0 if it is empty."""
    return max(bits.bit_length() - 1, 0)
