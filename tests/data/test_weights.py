"""Sampling weights against the published check vector and the shares they promise."""

import numpy as np
import pytest

from wdl.data.weights import Scheme, effective_sample_size, sampling_weights
from wdl.errors import UserError

WEAK = np.array([0.6, 0.5, 0.4, 0.9])
STRONG = np.array([0.4, 0.55, 0.4, 0.3])


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
    np.testing.assert_allclose(sampling_weights(scheme, WEAK, STRONG), expected, atol=5e-7)


def test_normalised_gives_each_term_its_exact_share() -> None:
    rng = np.random.default_rng(0)
    weak, strong = rng.gamma(2, size=1000), rng.gamma(2, size=1000)
    falls = strong < weak
    weights = sampling_weights("normalised", weak, strong, alpha=0, beta=0.7, gamma=0.3)
    assert weights[falls].sum() == pytest.approx(0.7)
    assert weights[~falls].sum() == pytest.approx(0.3)


def test_a_term_without_mass_leaves_the_others_theirs() -> None:
    weights = sampling_weights("normalised", WEAK, WEAK)
    np.testing.assert_allclose(weights, WEAK / WEAK.sum())


@pytest.mark.parametrize("bad", [-0.1, np.nan, np.inf])
def test_an_impossible_entropy_names_the_sample(bad: float) -> None:
    strong = STRONG.copy()
    strong[2] = bad
    with pytest.raises(UserError, match=r"strong entropy of sample 2"):
        sampling_weights("v2", WEAK, strong)


def test_no_weight_at_all_is_refused() -> None:
    with pytest.raises(UserError, match="weight 0"):
        sampling_weights("v1", np.zeros(3), np.zeros(3))


def test_effective_sample_size_counts_equal_samples() -> None:
    assert effective_sample_size(np.array([0.25, 0.25, 0.25, 0.25, 0])) == pytest.approx(4)
