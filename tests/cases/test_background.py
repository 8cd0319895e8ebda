"""The noise around a resampled brain is no brain; a clean image stays as it is."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from raum_lightning.cases.background import clear_background, cut_out, find_head
from raum_lightning.cases.discovery import find_case, find_cases
from raum_lightning.datasets import parse, presets
from raum_lightning.errors import CaseError
from raum_lightning.geometry import bounding_box
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
    folder = write_brats(tmp_path, "BraTS20_Training_001", presets()["brats2020"])
    path = folder / "BraTS20_Training_001_flair.nii.gz"
    clean = tiny_volumes()[0]["flair"]
    noisy = np.where(clean == 0, np.random.default_rng(0).normal(0, 1e-4, clean.shape), clean).astype(np.float32)
    nib.save(nib.Nifti1Image(noisy, AFFINE), path)
    np.testing.assert_array_equal(find_case(folder).read(["flair"])[0][0], clean)


def head(noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A scan with skull, X Y Z, and where the head is: bright scalp, dark skull, brain with an air-filled sinus."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 44, 36)), indexing="ij")
    r = np.sqrt((x / 0.8) ** 2 + (y / 0.9) ** 2 + (z / 0.8) ** 2)
    image = np.select([r < 0.75, r < 0.85, r < 1], [400.0, 20, 600], 0) + np.abs(rng.normal(0, noise, x.shape))
    image[18:22, 18:22, 16:20] = 0
    return image.astype(np.float32), r < 1


@pytest.mark.parametrize("noise", [0, 5, 30])
def test_the_head_is_found_in_noise_with_all_that_it_encloses(noise: float) -> None:
    image, inside = head(noise)
    assert (find_head(image) != inside).mean() <= (0 if noise < 30 else 0.001)


def test_what_is_outside_becomes_0_and_nothing_inside_is() -> None:
    image, inside = head(5)
    for background, brain in (("none", None), ("{case}_brain", inside.astype(np.float32))):
        cut = image.copy()
        cut_out(cut, background, brain)
        np.testing.assert_array_equal(cut != 0, inside)
        np.testing.assert_allclose(cut[inside], image[inside], atol=1e-30)
    shifted = np.where(inside, image, -1024).astype(np.float32)
    cut_out(shifted, -1024.0)
    np.testing.assert_array_equal(shifted != 0, inside)
    untouched = image.copy()
    cut_out(untouched, 0.0)
    np.testing.assert_array_equal(untouched, image)


def test_a_case_with_skull_is_read_without_what_surrounds_the_head(tmp_path: Path) -> None:
    about = {"name": "own", "images": {"scan": "{case}/scan"}, "mask": "{case}/seg", "labels": {7: "meta"}}
    image, inside = head(5)
    (tmp_path / "p").mkdir()
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "p/scan.nii")
    (case,) = find_cases(tmp_path, parse(about | {"background": "none"}, "own"))
    np.testing.assert_array_equal(case.read(["scan"])[0][0] != 0, inside)
    for value, said in ((np.nan, "1 voxels are NaN or infinite"), (None, "every voxel is 0; the image is empty")):
        broken = image * 0 if value is None else image.copy()
        broken[20, 20, 10] = value or 0
        nib.save(nib.Nifti1Image(broken, np.eye(4)), tmp_path / "p/scan.nii")
        with pytest.raises(CaseError, match=rf"scan\.nii: {said}"):
            case.read(["scan"])
    nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / "p/scan.nii")
    nib.save(nib.Nifti1Image(inside.astype(np.uint8), np.eye(4)), tmp_path / "p/brain.nii")
    (case,) = find_cases(tmp_path, parse(about | {"background": "{case}/brain"}, "own"))
    np.testing.assert_array_equal(case.read(["scan"])[0][0] != 0, inside)
    nib.save(nib.Nifti1Image(np.where(inside, image, np.nan), np.eye(4)), tmp_path / "p/scan.nii")
    np.testing.assert_array_equal(case.read(["scan"])[0][0] != 0, inside)
    for other, affine in ((inside[:-1], np.eye(4)), (inside, np.diag([-1.0, 1, 1, 1]))):
        nib.save(nib.Nifti1Image(other.astype(np.uint8), affine), tmp_path / "p/brain.nii")
        with pytest.raises(CaseError, match=r"brain\.nii: (shape|affine) .* scan\.nii"):
            case.read(["scan"])
    (tmp_path / "p/brain.nii").unlink()
    (case,) = find_cases(tmp_path, parse(about | {"background": "{case}/brain"}, "own"))
    with pytest.raises(CaseError, match=r"case p: no brain mask \({case}/brain\)"):
        case.read(["scan"])
