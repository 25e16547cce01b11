"""Paired tests against enumeration and simulation."""

from itertools import product

import pytest
import torch

from wdl.metrics.paired import holm, paired_test


def moved(gained: int, lost: int, same: int) -> torch.Tensor:
    return torch.tensor([1.0] * gained + [-1.0] * lost + [0.0] * same)


@pytest.mark.parametrize(("gained", "lost"), [(1, 0), (5, 0), (5, 1), (3, 3), (2, 9), (6, 0)])
def test_p_is_the_share_of_outcomes_at_least_as_lopsided(gained: int, lost: int) -> None:
    """McNemar's exact test: under equal models each problem that moved is a fair coin."""
    tosses = list(product((0, 1), repeat=gained + lost))
    extreme = [t for t in tosses if abs(2 * sum(t) - len(t)) >= abs(gained - lost)]
    expected = pytest.approx(len(extreme) / len(tosses), abs=1e-9)
    for same in (0, 40):
        assert paired_test(moved(gained, lost, same)).p_value == expected


def test_p_of_a_typed_in_case() -> None:
    assert paired_test(moved(10, 2, 88)).p_value == pytest.approx(2 * (1 + 12 + 66) / 4096)


def test_does_not_ask_who_is_better() -> None:
    one, other = paired_test(moved(40, 20, 7)), paired_test(moved(20, 40, 7))
    assert one.p_value == pytest.approx(other.p_value)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-7)


def test_interval_and_p_never_contradict_each_other() -> None:
    torch.manual_seed(0)
    cases = [moved(g, lost, s) for g in range(0, 14, 2) for lost in range(6) for s in (0, 30)]
    cases += [(torch.randn(size) * 0.2 + 0.1).clamp(-1, 1) for size in (3, 8, 20) for _ in range(9)]
    significant = 0
    for differences in cases:
        if len(differences):
            found = paired_test(differences)
            assert (found.low > 0 or found.high < 0) == (found.p_value < 0.05)
            assert found.low < found.high
            significant += found.p_value < 0.05
    assert 10 < significant < len(cases) - 10


@pytest.mark.parametrize("value", [0.125, 1.0])
@pytest.mark.parametrize("problems", [1, 3, 5])
def test_few_problems_show_nothing(value: float, problems: int) -> None:
    found = paired_test(torch.full((problems,), value))
    assert found.p_value == pytest.approx(2 / 2**problems)
    assert found.smallest_p == 2 / 2**problems
    assert found.p_value >= 0.05
    assert found.low < 0


def test_equal_models_differ_by_nothing_but_not_for_certain() -> None:
    found = paired_test(torch.zeros(40))
    assert (found.mean, found.p_value) == (0, 1)
    assert found.low == pytest.approx(-found.high)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 40), abs=1e-6)  # as of 0 of 40


def test_rejects_a_true_null_at_its_level() -> None:
    torch.manual_seed(0)
    simulations = 150
    rejected = 0
    for _ in range(simulations):
        chances = torch.rand(40)
        one, other = torch.distributions.Binomial(8, chances).sample((2,)) / 8
        rejected += paired_test(other - one).p_value < 0.05
    assert rejected / simulations < 0.08


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # sorted .005, .01, .03, .04 times 4, 3, 2, 1, never falling
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm(p_values: list[float], adjusted: list[float]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)
