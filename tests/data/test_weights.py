"""Sampling weights against the published check vector and the shares they promise."""

import math

import numpy as np
import pytest

from wdl.data.weights import Scheme, brownboost, effective_sample_size, sampling_weights
from wdl.errors import UserError

WEAK = np.array([0.6, 0.5, 0.4, 0.9])
STRONG = np.array([0.4, 0.55, 0.4, 0.3])
HISTORY = np.stack([WEAK, STRONG])


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("v2", [0.241993, 0.316726, 0.227758, 0.213523]),
        ("v1", [0.248588, 0.062147, 0.045198, 0.644068]),
        ("normalised", [0.225, 0.120833, 0.016667, 0.6375]),
        ("uniform", [0.25, 0.25, 0.25, 0.25]),
    ],
)
def test_check_vector(scheme: Scheme, expected: list[float]) -> None:
    np.testing.assert_allclose(sampling_weights(scheme, HISTORY)[0], expected, atol=5e-7)


def test_normalised_gives_each_term_its_exact_share() -> None:
    rng = np.random.default_rng(0)
    weak, strong = rng.gamma(2, size=1000), rng.gamma(2, size=1000)
    falls = strong < weak
    history = np.stack([weak, strong])
    weights, mass = sampling_weights("normalised", history, alpha=0.2, beta=0.5, gamma=0.3)
    assert mass == pytest.approx({"weak": 0.2, "decrease": 0.5, "increase": 0.3})
    weights, _ = sampling_weights("normalised", history, alpha=0, beta=0.7, gamma=0.3)
    assert weights[falls].sum() == pytest.approx(0.7)
    assert weights[~falls].sum() == pytest.approx(0.3)


def test_a_term_without_mass_leaves_the_others_theirs() -> None:
    weights, mass = sampling_weights("normalised", np.stack([WEAK, WEAK]))
    assert mass == {"weak": 1.0, "decrease": 0.0, "increase": 0.0}
    np.testing.assert_allclose(weights, WEAK / WEAK.sum())


@pytest.mark.parametrize("bad", [-0.1, np.nan, np.inf])
def test_an_impossible_entropy_names_the_sample(bad: float) -> None:
    history = HISTORY.copy()
    history[1, 2] = bad
    with pytest.raises(UserError, match=r"entropy_1 of sample 2"):
        sampling_weights("v2", history)
    with pytest.raises(UserError, match=r"entropy_1 of sample 17"):
        sampling_weights("v2", history, idx=np.array([15, 16, 17, 18]))


def test_no_weight_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="weight 0"):
        sampling_weights("v1", np.zeros((2, 3)))


def test_mass_of_each_term() -> None:
    # by hand: 0.1·2.4, 0.8·(0.2 + 0 + 0 + 0.6), 0.1·0.05
    terms = {"weak": 0.24, "decrease": 0.64, "increase": 0.005}
    expected = {name: term / 0.885 for name, term in terms.items()}
    assert sampling_weights("v1", HISTORY)[1] == pytest.approx(expected)


def test_one_round_is_refused() -> None:
    with pytest.raises(UserError, match="v1 compares two rounds, but there are entropies of one"):
        sampling_weights("v1", HISTORY[:1])


def test_more_rounds_than_two_use_the_last_two() -> None:
    longer = np.stack([STRONG * 7, WEAK, STRONG])
    np.testing.assert_array_equal(
        sampling_weights("v2", longer)[0], sampling_weights("v2", HISTORY)[0]
    )


def brownboost_by_hand(history: list[list[float]], alpha: float, beta: float, gamma: float) -> list:
    """The formula sample by sample in plain Python."""
    last = history[-1]
    ordered = sorted(last)

    def quantile(q: float) -> float:
        place = q * (len(ordered) - 1)
        low = math.floor(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    easy, hard = quantile(0.2), quantile(0.8)
    falls = [h0 - h2 for h0, h2 in zip(history[0], last, strict=True)]
    mean = sum(falls) / len(falls)
    std = math.sqrt(sum((f - mean) ** 2 for f in falls) / len(falls))
    weights = []
    for sample, fall in enumerate(falls):
        rounds = [row[sample] for row in history]
        difficulty = min(max((rounds[-1] - easy) / (hard - easy), 0), 1) + 1e-6
        trend = min(max(1 + 0.5 * fall / std, 0.1), 10)
        time = math.exp(-max(0, sum(h > hard for h in rounds) - 2))
        bored = math.exp(-max(0, sum(h < easy for h in rounds) - 2))
        weights.append(difficulty**alpha * trend**beta * time**gamma * bored)
    return weights


def test_brownboost() -> None:
    rng = np.random.default_rng(3)
    history = rng.gamma(2, size=(5, 40)) * np.linspace(0.1, 3, 40)  # some stay easy, some difficult
    expected = np.array(brownboost_by_hand(history.tolist(), 0.1, 0.8, 0.1))
    np.testing.assert_allclose(brownboost(history, 0.1, 0.8, 0.1), expected, rtol=1e-12)
    weights, mass = sampling_weights("brownboost", history)
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-12)
    assert mass == {"product": pytest.approx(1)}


def test_brownboost_needs_three_rounds() -> None:
    with pytest.raises(UserError, match="over 3 rounds or more, but there are entropies of 2"):
        sampling_weights("brownboost", HISTORY)


def test_brownboost_refuses_samples_that_are_all_alike() -> None:
    with pytest.raises(UserError, match="cannot tell difficult samples from easy ones"):
        sampling_weights("brownboost", np.full((3, 9), 0.5))


def test_effective_sample_size_counts_equal_samples() -> None:
    assert effective_sample_size(np.array([0.25, 0.25, 0.25, 0.25, 0])) == pytest.approx(4)
