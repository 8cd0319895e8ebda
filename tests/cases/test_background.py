"""The noise around a resampled brain is no brain; a clean image stays as it is."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from raum_lightning.cases.background import clear_background
from raum_lightning.cases.discovery import find_case
from raum_lightning.geometry import bounding_box
from raum_lightning.labels import EDITIONS
from tests.helpers.cases import AFFINE, tiny_volumes, write_brats


def brain(shape: tuple[int, int, int] = (24, 24, 24), inset: int = 6) -> np.ndarray:
    image = np.zeros(shape, np.float32)
    inside = tuple(slice(inset, size - inset) for size in shape)
    image[inside] = np.random.default_rng(0).normal(500, 60, image[inside].shape)
    return image


@pytest.mark.parametrize("noise", [1e-7, 1e-4, 1.0])
@pytest.mark.parametrize("everywhere", [True, False])
def test_small_values_around_a_brain_become_0(noise: float, everywhere: bool) -> None:
    image, rng = brain(), np.random.default_rng(1)
    added = rng.normal(0, noise, image.shape) * (True if everywhere else rng.random(image.shape) < 0.2)
    noisy = np.where(image == 0, added, image).astype(np.float32)
    np.testing.assert_array_equal(clear_background(noisy), image)


def test_a_brain_resampled_by_splines_keeps_its_box() -> None:
    image = brain((20, 20, 20), inset=6)
    resampled = ndimage.zoom(image, 1.5, order=3)
    assert np.count_nonzero(resampled) > 0.9 * resampled.size
    box = bounding_box(clear_background(resampled))
    # 6 to 14 times 1.5 and what a spline rings at an edge of 500
    assert all(side.start >= 4 and side.stop <= 26 for side in box)


@pytest.mark.parametrize("inset", [0, 6])
def test_an_image_on_0_is_returned_as_it_is(inset: int) -> None:
    image = brain(inset=inset)
    assert clear_background(image) is image
    image[image > 0] = 1
    image[12, 12, 12] = 1000  # the rest of the brain is dark
    assert clear_background(image) is image


def test_a_case_is_read_without_its_noise(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "BraTS20_Training_001", EDITIONS["brats2020"])
    path = folder / "BraTS20_Training_001_flair.nii.gz"
    clean = tiny_volumes()[0]["flair"]
    noisy = np.where(clean == 0, np.random.default_rng(0).normal(0, 1e-4, clean.shape), clean).astype(np.float32)
    nib.save(nib.Nifti1Image(noisy, AFFINE), path)
    np.testing.assert_array_equal(find_case(folder).read(["flair"])[0][0], clean)
