"""The draw: its distribution, its modes, its dependence on the seed alone."""

import numpy as np
import pytest

from wdl.data.draw import Draw, draw_samples

P = np.array([0.1, 0.2, 0.3, 0.4, 0.0])


def test_with_replacement_follows_the_weights() -> None:
    drawn = draw_samples(P, 200_000, "with_replacement", seed=1)
    frequencies = np.bincount(drawn, minlength=5) / len(drawn)
    standard_error = np.sqrt(P * (1 - P) / len(drawn))
    assert len(drawn) == 200_000
    assert (np.abs(frequencies - P) <= 4 * standard_error).all()


def test_deduplicated_is_the_same_draw_without_duplicates() -> None:
    kept = draw_samples(P, 3, "with_replacement", seed=5)
    unique = draw_samples(P, 3, "deduplicated", seed=5)
    assert sorted(unique) == sorted(set(kept))


def test_without_replacement_makes_whole_passes() -> None:
    drawn = draw_samples(P, 10, "without_replacement", seed=3)
    assert sorted(drawn[:4]) == sorted(drawn[4:8]) == [0, 1, 2, 3]
    assert len(drawn) == 10


def test_without_replacement_takes_likely_samples_first() -> None:
    first = [draw_samples(P, 1, "without_replacement", seed)[0] for seed in range(4000)]
    share = np.bincount(first, minlength=5) / len(first)
    np.testing.assert_allclose(share, P, atol=0.03)


@pytest.mark.parametrize("mode", ["with_replacement", "deduplicated", "without_replacement"])
def test_the_seed_decides(mode: Draw) -> None:
    uniform = np.full(500, 1 / 500)
    first, again, other = (draw_samples(uniform, 500, mode, seed) for seed in (7, 7, 8))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()
