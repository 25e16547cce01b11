"""Pairs of a chosen and a rejected answer, [2, pairs] of positions among the answers.

What is the same for all of them at once; a question that is too large is the one loop.
"""

import numpy as np
from numpy.typing import NDArray

Pairs = NDArray[np.int64]


def every_pair(rows: NDArray[np.int64], is_chosen: NDArray[np.bool_]) -> Pairs:
    """Each chosen answer of a row with each rejected one.

    Args:
        rows: [answers] which row each answer is from; those of one row stand together.
        is_chosen: [answers].
    """
    runs = np.cumsum(np.diff(rows, prepend=rows[:1]) != 0)
    chosen, rejected = np.flatnonzero(is_chosen), np.flatnonzero(~is_chosen)
    first = np.searchsorted(runs[rejected], runs[chosen])
    times = np.searchsorted(runs[rejected], runs[chosen], "right") - first
    counted = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
    return np.stack([np.repeat(chosen, times), rejected[np.repeat(first, times) + counted]])


def by_chance(pairs: Pairs, questions: NDArray[np.int64], names: NDArray[np.int64]) -> Pairs:
    """The pairs by question, those of a question in an order that depends on its answers alone.

    Args:
        pairs: Without duplicates.
        questions: [answers] which question each answer is to.
        names: [answers] random bits that name each answer.
    """
    chosen, rejected = names.view(np.uint64)[pairs]
    return pairs[:, np.lexsort((_mixed(_mixed(chosen) + rejected), questions[pairs[0]]))]


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Bits of which each depends on all (the end of SplitMix64)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


def within(
    pairs: Pairs, questions: NDArray[np.int64], lengths: NDArray[np.int64], max_tokens: int
) -> NDArray[np.bool_]:
    """Which pairs are kept if each question takes one after the other for which it has room.

    Args:
        pairs: By question.
        questions: [answers] which question each answer is to.
        lengths: [answers] in tokens.
        max_tokens: Room for the answers of a question.
    """
    fits = np.ones(pairs.shape[1], dtype=bool)
    used = np.unique(pairs)
    tokens = np.bincount(questions[used], lengths[used])
    starts, ends = _groups(questions[pairs[0]])
    too_large = tokens[questions[pairs[0, starts]]] > max_tokens
    for start, end in zip(starts[too_large].tolist(), ends[too_large].tolist(), strict=True):
        taken: set[int] = set()
        room = max_tokens
        for number, pair in enumerate(pairs[:, start:end].T.tolist(), start):
            needed = {*pair} - taken
            size = int(lengths[list(needed)].sum())
            if size <= room:
                taken |= needed
                room -= size
            else:
                fits[number] = False
    return fits


def among_first(pairs: Pairs, questions: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
    """Which pairs are one of the first ``count`` of their question; they come by question."""
    starts, ends = _groups(questions[pairs[0]])
    return np.arange(pairs.shape[1]) - np.repeat(starts, ends - starts) < count


def _groups(values: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each run of equal values, none of them negative, begins and ends."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    return starts, np.append(starts, len(values))[1:]
