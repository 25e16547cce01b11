"""Paired tests against enumeration and simulation."""

from itertools import product

import pytest
import torch

from wdl.metrics.paired import mcnemar, paired_bootstrap


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 1), (3, 3), (2, 9)])
def test_mcnemar_is_the_share_of_outcomes_at_least_as_lopsided(gained: int, lost: int) -> None:
    tosses = list(product((0, 1), repeat=gained + lost))
    extreme = [t for t in tosses if abs(2 * sum(t) - len(t)) >= abs(gained - lost)]
    assert mcnemar(gained, lost) == pytest.approx(len(extreme) / len(tosses))


def test_mcnemar_gives_a_typed_in_value() -> None:
    assert mcnemar(10, 2) == pytest.approx(2 * (1 + 12 + 66) / 4096)


def test_mcnemar_does_not_ask_who_is_better() -> None:
    assert mcnemar(40, 20) == mcnemar(20, 40)


def test_bootstrap_sees_a_clear_difference() -> None:
    difference = paired_bootstrap(torch.tensor([0.25, 0.5] * 50))
    assert difference.mean == 0.375
    assert 0.3 < difference.low < 0.375 < difference.high < 0.45
    assert difference.p_value == pytest.approx(2 / 10_001)


def test_bootstrap_of_equal_models_is_not_significant() -> None:
    difference = paired_bootstrap(torch.zeros(40))
    assert (difference.low, difference.high, difference.p_value) == (0, 0, 1)


def test_bootstrap_rejects_a_true_null_at_its_level() -> None:
    torch.manual_seed(0)
    simulations = 400
    p_values = [
        paired_bootstrap(torch.randn(60), resamples=500, seed=simulation).p_value
        for simulation in range(simulations)
    ]
    rejected = sum(p < 0.05 for p in p_values) / simulations
    assert 0.02 < rejected < 0.09
