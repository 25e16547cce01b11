"""Metrics of graded answers on answers that can be counted by hand."""

import pytest
import torch

from wdl.metrics.per_problem import AnswerLength, CutOffRate, MajorityVote, MeanAtN

CORRECT = torch.tensor([[True, True, False], [False, False, False]])


def test_mean_at_n() -> None:
    metric = MeanAtN()
    metric.update(CORRECT)
    metric.update(torch.tensor([[True, True, True]]))
    assert metric.compute().item() == pytest.approx((2 / 3 + 0 + 1) / 3)


def test_mean_at_n_is_not_pass_at_n() -> None:
    metric = MeanAtN()
    metric.update(torch.tensor([[True, False]]))
    assert metric.compute().item() == 0.5


@pytest.mark.parametrize(
    ("correct", "votes", "value"),
    [
        ([True, True, False], [0, 0, 1], 1.0),
        ([True, False, False], [0, 1, 1], 0.0),
        ([True, False, False], [0, 1, 2], 1 / 3),  # a tie of three
        ([True, False, False], [0, -1, -1], 1.0),  # no answer is no vote
        ([False, False, False], [-1, -1, -1], 0.0),
    ],
)
def test_majority_vote(correct: list[bool], votes: list[int], value: float) -> None:
    metric = MajorityVote()
    metric.update(torch.tensor([correct]), torch.tensor([votes]))
    assert metric.compute().item() == pytest.approx(value)


def test_cut_off_rate_and_length() -> None:
    rate, length = CutOffRate(), AnswerLength()
    rate.update(torch.tensor([[True, False], [False, False]]))
    length.update(torch.tensor([[10, 20], [30, 40]]))
    assert rate.compute().item() == 0.25
    assert length.compute().item() == 25.0


def test_interval_counts_problems_and_not_answers() -> None:
    """Two problems with equal answers throughout are as good as two answers."""
    metric = MeanAtN()
    metric.update(torch.tensor([[True] * 50, [False] * 50]))
    # of one among two: 1 - (1 - p)^2 = 0.025
    low = 1 - 0.975**0.5
    assert metric.interval() == pytest.approx((low, 1 - low), abs=1e-7)


def test_interval_of_what_is_the_same_for_all_problems_is_no_point() -> None:
    for metric in (MeanAtN(), CutOffRate()):
        metric.update(torch.zeros(20, 4, dtype=torch.bool))
        assert metric.interval() == pytest.approx((0, 1 - 0.025 ** (1 / 20)), abs=1e-7)


def test_reset_forgets() -> None:
    metric = MeanAtN()
    metric.update(CORRECT)
    metric.reset()
    metric.update(torch.tensor([[True]]))
    assert metric.compute().item() == 1.0
