"""The expected calibration error by hand, and a temperature that is found again."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from raum_lightning.inference.temperature import temper
from raum_lightning.studies.calibration import Sample, calibration_error, fit_temperature, joined


def test_the_error_by_hand() -> None:
    # four voxels sure by .9, of which two are right, and one sure by .6 that is right
    values = np.array([[0.9, 0.9, 0.9, 0.9, 0.4], [0.1, 0.1, 0.1, 0.1, 0.6]], np.float32)
    sample = Sample(values, np.array([0, 0, 1, 1, 1]))
    assert calibration_error(sample) == pytest.approx((abs(2 - 4 * 0.9) + abs(1 - 0.6)) / 5, abs=1e-6)


def test_logits_are_divided() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 50)) * 3
    found = temper(softmax(logits, axis=0).astype(np.float32), "labels", 2.5)
    np.testing.assert_allclose(found, softmax(logits / 2.5, axis=0), atol=1e-5)
    one = np.array([[0.8]], np.float32)
    expected = 1 / (1 + np.exp(-np.log(0.8 / 0.2) / 2))
    assert temper(one, "regions", 2).item() == pytest.approx(expected, abs=1e-6)
    assert temper(one, "regions", 1) is one


@pytest.mark.parametrize("factor", [0.5, 1.0, 2.0])
def test_the_temperature_of_probabilities_that_are_too_sure_is_found(factor: float) -> None:
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 20_000)) * 2
    right = softmax(logits, axis=0)
    truth = (right.cumsum(axis=0) < rng.random(20_000)).sum(axis=0)
    sample = Sample(softmax(logits * factor, axis=0).astype(np.float32), truth)
    temperature = fit_temperature(sample)
    assert temperature == pytest.approx(factor, rel=0.05)
    assert calibration_error(sample, temperature) < 0.02
    if factor != 1:
        assert calibration_error(sample) > 3 * calibration_error(sample, temperature)


def test_samples_are_kept_and_joined(tmp_path: Path) -> None:
    sample = Sample(np.array([[0.25, 1], [0.75, 0]], np.float32), np.array([1, 0]))
    sample.save(tmp_path / "a.npz")
    again = Sample.read(tmp_path / "a.npz")
    both = joined([sample, again])
    assert np.array_equal(both.probabilities, np.tile(sample.probabilities, 2)) and both.truth.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("mode", ["labels", "regions"])
def test_what_is_certain_stays_so(mode: str) -> None:
    outside = np.array([1, 0, 0], np.float32).reshape(3, 1, 1, 1)
    np.testing.assert_array_equal(temper(outside, mode, 8.0), outside)
