"""Z-scores over the brain, by hand, and what one broken voxel does to them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raum_lightning.data.normalise import clip_outliers, normalise


def test_z_scores_over_the_brain_and_exactly_0_outside() -> None:
    image = np.zeros((2, 6, 6, 6), np.float32)
    image[0, 1:5, 2:4, 3] = np.arange(8).reshape(4, 2) + 1  # mean 4.5, std sqrt(5.25)
    image[1, 1:5, 2:4, 3] = 10
    image[1, 1, 2, 3] = 18  # mean 11, std sqrt(7)
    out, crop = normalise(image)
    assert crop == (slice(1, 5), slice(2, 4), slice(3, 4))
    np.testing.assert_allclose(out[0, :, :, 0].ravel(), (np.arange(8) - 3.5) / 5.25**0.5, rtol=1e-3)
    np.testing.assert_allclose(out[1, 0, :, 0], [7 / 7**0.5, -1 / 7**0.5], rtol=1e-3)


def test_a_brain_voxel_at_the_mean_is_not_taken_for_background() -> None:
    image = np.zeros((1, 3, 1, 1), np.float32)
    image[0, :, 0, 0] = [1, 2, 3]
    assert (normalise(image)[0] != 0).all()


@pytest.mark.parametrize("value", [1e9, 1e5, -1e9])
@pytest.mark.parametrize("count", [1, 50])
def test_broken_voxels_do_not_flatten_a_modality(value: float, count: int) -> None:
    rng = np.random.default_rng(0)
    image = np.zeros((2, 30, 30, 30), np.float32)
    image[:, 3:-3, 3:-3, 3:-3] = rng.normal(100, 10, (2, 24, 24, 24))
    image[:, 10:14, 10:14, 10:14] = 150
    clean = normalise(image)[0].astype(np.float32)
    image[1].reshape(-1)[rng.choice(np.flatnonzero(image[1]), count, replace=False)] = value
    broken = normalise(image)[0].astype(np.float32)
    np.testing.assert_array_equal(broken[0], clean[0])
    contrast = [one[1, 8, 8, 8] - np.median(one[1]) for one in (clean, broken)]
    assert contrast[1] == pytest.approx(contrast[0], rel=0.05 if count == 1 else 0.5)


@given(seed=st.integers(0, 99), brightest=st.floats(0, 12))
def test_values_without_outliers_are_returned_as_they_are(seed: int, brightest: float) -> None:
    """Up to 12 standard deviations from the mean, as vessels are after contrast agent."""
    values = np.random.default_rng(seed).normal(size=2000).astype(np.float32)
    values[7] = brightest
    assert clip_outliers(values) is values or np.array_equal(clip_outliers(values), values)


def test_clipped_at_four_distances_beyond_the_percentiles() -> None:
    values = np.append(np.linspace(0, 100, 10_001), [1e9, -1e9]).astype(np.float32)
    low, high = np.percentile(values, (1, 99))
    assert (low, high) == pytest.approx((1, 99), abs=0.1)
    clipped = clip_outliers(values)
    np.testing.assert_array_equal(clipped[:-2], values[:-2])
    assert clipped[-2:] == pytest.approx([99 + 4 * 98, 1 - 4 * 98], abs=1)
