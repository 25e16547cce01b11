"""Packs: which samples share a row, so that next to none of it stays empty."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pack(lengths: NDArray[np.int64], max_tokens: int) -> list[list[int]]:
    """Best-fit decreasing: each sample goes where the least room remains, longest first.

    The number of packs depends on the lengths alone, not on their order. Takes O(n) steps, each on
    a set of ``max_tokens`` bits.

    Args:
        lengths: [n] tokens of each sample, at most ``max_tokens``.
        max_tokens: Tokens of a pack.

    Returns:
        Positions in ``lengths`` that share a pack.
    """
    packs: list[list[int]] = []
    # packs by the room they have left, and the set of rooms that there are, as the bits of a number
    with_room: list[list[int]] = [[] for _ in range(max_tokens + 1)]
    rooms = 0
    order = np.argsort(-lengths, kind="stable").tolist()
    sizes: Sequence[int] = lengths.tolist()
    for position in order:
        size = sizes[position]
        enough = rooms >> size
        if enough:
            room = size + (enough & -enough).bit_length() - 1
            number = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
            packs[number].append(position)
        else:
            room, number = max_tokens, len(packs)
            packs.append([position])
        left = room - size
        with_room[left].append(number)
        rooms |= 1 << left
    return packs
