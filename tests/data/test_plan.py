"""The plan: the same optimizer steps for every number of ranks, whole, with exact denominators."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from wdl.data.loading import RankShare
from wdl.data.plan import MicroBatch, Plan
from wdl.errors import UserError

LENGTHS = np.array([5, 9, 3, 7, 7, 2, 8, 4, 6, 5])


def make_plan(
    draws: int = 21, batch_size: int = 12, micro_batch_size: int = 2, max_tokens: int | None = None
) -> Plan:
    drawn = np.random.default_rng(0).integers(len(LENGTHS), size=draws)
    return Plan(drawn, LENGTHS, LENGTHS - 1, batch_size, micro_batch_size, 3, max_tokens)


def padded_and_packed() -> list[Plan]:
    return [
        make_plan(),
        make_plan(draws=200, batch_size=12, micro_batch_size=2),
        make_plan(draws=200, batch_size=12, micro_batch_size=1, max_tokens=30),
    ]


def rank_batches(plan: Plan, rank: int, world_size: int, step: int = 0) -> list[MicroBatch]:
    return list(RankShare(plan, rank, world_size, lambda: step))


@pytest.mark.parametrize("plan", padded_and_packed())
def test_an_epoch_holds_every_draw_once(plan: Plan) -> None:
    seen = [s for step in plan.epoch(0) for micro in step for s in micro.samples]
    assert sorted(seen) == sorted(plan.drawn.tolist())


def test_every_step_has_all_its_micro_batches() -> None:
    plan = make_plan()
    assert [len(step) for step in plan.epoch(0)] == [6, 6]
    *whole, last = ([len(micro.samples) for micro in step] for step in plan.epoch(0))
    assert whole == [[2] * 6]
    assert sorted(last, reverse=True) == [2, 2, 2, 2, 1, 0]
    assert last[-1] == 0


@pytest.mark.parametrize("plan", padded_and_packed())
def test_the_denominator_counts_the_whole_step(plan: Plan) -> None:
    for step in plan.epoch(1):
        tokens = sum(int(LENGTHS[s]) - 1 for micro in step for s in micro.samples)
        assert {micro.denominator for micro in step} == {tokens}


@pytest.mark.parametrize("plan", padded_and_packed())
@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_the_number_of_ranks_changes_no_step(world_size: int, plan: Plan) -> None:
    accumulation = plan.accumulation(world_size)
    ranks = [rank_batches(plan, rank, world_size) for rank in range(world_size)]
    for number, step in enumerate(plan.epoch(0)):
        ours = [
            tuple(micro.samples)
            for batches in ranks
            for micro in batches[number * accumulation : (number + 1) * accumulation]
        ]
        assert sorted(ours) == sorted(tuple(micro.samples) for micro in step)


def test_a_number_of_ranks_that_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="make 6 per step, which 4 processes cannot share"):
        make_plan().accumulation(4)


@pytest.mark.parametrize("plan", padded_and_packed())
def test_resuming_at_any_step_continues_the_sequence(plan: Plan) -> None:
    whole = rank_batches(plan, 0, 1)
    per_step = plan.accumulation(1)
    for step in range(plan.steps):
        assert rank_batches(plan, 0, 1, step) == whole[step * per_step :]


@pytest.mark.parametrize("plan", padded_and_packed())
def test_epochs_differ_in_order_alone(plan: Plan) -> None:
    first, second = rank_batches(plan, 0, 1), rank_batches(plan, 0, 1, plan.steps)
    assert first != second
    assert sorted(s for m in first for s in m.samples) == sorted(
        s for m in second for s in m.samples
    )


def spread_out() -> tuple[Plan, NDArray[np.int64]]:
    lengths = np.random.default_rng(1).integers(10, 1000, size=3000)
    return Plan(np.arange(3000), lengths, lengths, 64, 8, seed=0), lengths


def test_micro_batches_hold_like_lengths() -> None:
    plan, lengths = spread_out()
    micro_batches = [lengths[m.samples] for step in plan.epoch(0) for m in step if m.samples]
    padded = sum(lens.max() * len(lens) for lens in micro_batches)
    assert lengths.sum() / padded > 0.985


def test_steps_hold_all_lengths() -> None:
    plan, lengths = spread_out()
    means = [lengths[[s for m in step for s in m.samples]].mean() for step in plan.epoch(0)]
    # eight micro-batches at random: a standard error of 286 / √8
    assert np.std(means) < 286 / np.sqrt(8) * 1.3
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.4


def test_micro_batches_of_a_step_are_sorted_by_length() -> None:
    plan, lengths = spread_out()
    for step in plan.epoch(0):
        longest = [lengths[m.samples].max(initial=0) for m in step]
        assert longest == sorted(longest, reverse=True)


def test_each_epoch_mixes_micro_batches_anew() -> None:
    plan, _ = spread_out()
    first, second = (
        {frozenset(m.samples) for step in plan.epoch(number) for m in step} for number in (0, 1)
    )
    assert len(first & second) < 5


def test_packs_are_whole_steps_that_fit() -> None:
    plan = make_plan(draws=200, batch_size=12, micro_batch_size=1, max_tokens=30)
    for number in range(3):
        steps = list(plan.epoch(number))
        assert len(steps) == plan.steps
        assert {len(step) for step in steps} == {12}
        assert all(LENGTHS[micro.samples].sum() <= 30 for step in steps for micro in step)
        assert not any(len(micro.samples) == 0 for step in steps[:-1] for micro in step)


@pytest.mark.parametrize("batch_size", [64, 12])
def test_the_size_of_micro_batches_changes_no_step(batch_size: int) -> None:
    _, lengths = spread_out()
    steps = []
    for size in (1, 2, batch_size // 4, batch_size):
        plan = Plan(np.arange(3000), lengths, lengths, batch_size, size, seed=0)
        steps.append([sorted(s for m in step for s in m.samples) for step in plan.epoch(1)])
    assert all(other == steps[0] for other in steps[1:])


def test_the_digest_names_what_steps_depend_on() -> None:
    plan = make_plan()
    assert plan.digest == replace(plan, micro_batch_size=1).digest
    for change in ({"seed": 9}, {"batch_size": 6}, {"drawn": plan.drawn[::-1]}, {"max_tokens": 99}):
        assert plan.digest != replace(plan, **change).digest
