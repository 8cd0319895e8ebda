"""From the grid of a case into the frame of a network and back."""

import re
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage
from scipy.spatial.transform import Rotation

from raum_lightning.cases import header
from raum_lightning.errors import GeometryError
from raum_lightning.geometry import (
    MAX_VOXELS,
    Frame,
    Reorientation,
    Resampler,
    axis_codes,
    bounding_box,
    brain_mask,
    sample,
    voxel_size,
)

CODES = ["".join(code) for axes in permutations(("LR", "AP", "SI")) for code in product(*axes)]
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
FRAME = Frame("LPS", (1.0, 1.0, 1.0))


def turned(data: np.ndarray, affine: np.ndarray, codes: str) -> nib.Nifti1Image:
    """The same image with its axes along `codes`, by nibabel."""
    image = nib.Nifti1Image(data, affine)
    return image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(codes)))


def oblique(degrees: float, size: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> np.ndarray:
    affine = LPS.copy()
    affine[:3, :3] = Rotation.from_euler("z", degrees, degrees=True).as_matrix() @ affine[:3, :3] * size
    return affine


@pytest.mark.slow
@given(codes=st.sampled_from(CODES), frame=st.sampled_from(CODES), shape=st.tuples(*[st.integers(1, 6)] * 3))
def test_turning_is_exact_and_follows_the_affine(codes: str, frame: str, shape: tuple[int, int, int]) -> None:
    data = np.random.default_rng(0).normal(size=shape)
    seen = turned(data, LPS, codes)
    resampler = Resampler(Frame(frame, (1.0, 1.0, 1.0)), seen.shape, seen.affine)
    entered = resampler.to_frame(torch.from_numpy(seen.get_fdata().copy())[None])
    np.testing.assert_array_equal(entered[0], turned(data, LPS, frame).get_fdata())
    assert not resampler.resamples
    np.testing.assert_array_equal(resampler.from_frame(entered)[0], seen.get_fdata())


@pytest.mark.parametrize(
    ("affine", "resamples"),
    [
        (oblique(0, (1.009, 1.0, 0.995)), False),
        (oblique(0, (1.02, 1.0, 1.0)), True),
        (oblique(2.5), False),
        (oblique(-4), True),
    ],
)
def test_small_differences_are_left_as_they_are(affine: np.ndarray, resamples: bool) -> None:
    assert Resampler(FRAME, (9, 8, 7), affine).resamples is resamples


@pytest.mark.slow
@given(
    codes=st.sampled_from(CODES),
    size=st.tuples(*[st.floats(0.6, 2.0)] * 3),
    degrees=st.floats(-40, 40),
)
@settings(max_examples=25)
def test_a_place_in_the_head_stays_where_it_is(codes: str, size: tuple[float, float, float], degrees: float) -> None:
    # any grid around the origin sees the same blob at (4, -3, 2) mm; so must the frame, whose centre is the origin
    own = np.zeros((3, 3))
    own[axcodes2ornt(codes)[:, 0].astype(int), range(3)] = axcodes2ornt(codes)[:, 1]
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("zx", [degrees, degrees / 2], degrees=True).as_matrix() @ own * size
    shape = [int(48 / step) for step in size]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    where = np.tensordot(affine[:3, :3], np.indices(shape), 1) + affine[:3, 3, None, None, None]
    blob = np.exp(-((where - np.array([4, -3, 2])[:, None, None, None]) ** 2).sum(axis=0) / 50) + 1e-9
    resampler = Resampler(FRAME, shape, affine)
    entered = resampler.to_frame(torch.from_numpy(blob)[None])
    steps = [own if abs(own - 1) <= 0.01 else 1 for own in _own(affine)]
    centre = (np.array(ndimage.center_of_mass(entered[0].numpy())) - (np.array(entered.shape[1:]) - 1) / 2) * steps
    np.testing.assert_allclose(centre * [-1, -1, 1], [4, -3, 2], atol=0.15)
    assert resampler.from_frame(entered).shape[1:] == tuple(shape)
    np.testing.assert_allclose(resampler.from_frame(entered)[0].numpy(), blob, atol=0.08)


def _own(affine: np.ndarray) -> np.ndarray:
    """Voxel sizes in the order of x, y and z."""
    order = io_orientation(affine)[:, 0].astype(int)
    return np.array(voxel_size(affine))[np.argsort(order)]


def test_sampling_is_scipys_trilinear_interpolation() -> None:
    volume = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 9, 8, 11)))
    matrix = Rotation.from_euler("xyz", [10, 20, -30], degrees=True).as_matrix() * [0.7, 1.2, 0.9]
    shape = (7, 10, 6)
    offset = (np.array([9, 8, 11]) - 1) / 2 - matrix @ ((np.array(shape) - 1) / 2)
    expected = [ndimage.affine_transform(one.numpy(), matrix, offset, shape, order=1) for one in volume]
    inside = ndimage.affine_transform(np.ones((9, 8, 11)), matrix, offset, shape, order=1, mode="constant") == 1
    found = sample(volume, matrix, shape, padding="zeros").numpy()
    assert inside.sum() > 200
    np.testing.assert_allclose(found[:, inside], np.array(expected)[:, inside], atol=1e-6)


def test_a_voxel_that_spans_several_is_their_mean() -> None:
    volume = torch.arange(2 * 4 * 6, dtype=torch.float64).reshape(1, 2, 4, 6) ** 2
    thick = sample(volume, np.diag([1.0, 1.0, 3.0]), (2, 4, 2), padding="zeros")
    torch.testing.assert_close(thick, volume.reshape(1, 2, 4, 2, 3).mean(dim=-1))
    torch.testing.assert_close(sample(volume, np.eye(3), (2, 4, 6), padding="border"), volume)


def test_a_brain_gets_no_dark_rim() -> None:
    grid = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in (30, 30, 15)), indexing="ij"))
    ball = (grid**2 * np.array([1, 1, 4])[:, None, None, None]).sum(axis=0) < 11**2
    entered = Resampler(FRAME, (30, 30, 15), LPS * [1, 1, 2, 1]).to_frame(torch.from_numpy(ball * 7.0)[None])
    values = entered[entered != 0]
    torch.testing.assert_close(values, torch.full_like(values, 7.0))
    assert len(values) == pytest.approx(4 / 3 * np.pi * 11**3, rel=0.03)


def test_codes_and_sizes() -> None:
    assert axis_codes(LPS) == "LPS" and axis_codes(oblique(40)) == "LPS"
    assert voxel_size(oblique(25, (0.5, 1.0, 3.0))) == pytest.approx((0.5, 1.0, 3.0))


@given(shape=st.tuples(*[st.integers(1, 5)] * 3), seed=st.integers(0, 99), filled=st.sampled_from([0.0, 0.05, 0.5]))
def test_brain_and_its_box_are_the_same_of_arrays_and_tensors(shape: tuple[int, ...], seed: int, filled: float) -> None:
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(2, *shape)) * (rng.random((2, *shape)) < filled)
    mask = brain_mask(image)
    np.testing.assert_array_equal(mask, np.logical_or(image[0] != 0, image[1] != 0))
    assert torch.equal(brain_mask(torch.from_numpy(image)), torch.from_numpy(mask))
    box = bounding_box(mask)
    assert box == bounding_box(torch.from_numpy(mask))
    where = np.argwhere(mask)
    expected = (
        [(low, high + 1) for low, high in zip(where.min(0), where.max(0), strict=True)] if len(where) else 3 * [(0, 0)]
    )
    assert [(side.start, side.stop) for side in box] == expected


@pytest.mark.slow
@given(codes=st.sampled_from(CODES), shape=st.tuples(*[st.integers(1, 5)] * 3))
def test_arrays_and_tensors_are_reoriented_alike_and_back(codes: str, shape: tuple[int, int, int]) -> None:
    data = np.random.default_rng(0).normal(size=(2, *shape))
    reorientation = Reorientation(codes, shape, LPS)
    expected = [turned(one, LPS, codes).get_fdata() for one in data]
    np.testing.assert_array_equal(reorientation(data), expected)
    np.testing.assert_array_equal(reorientation(torch.from_numpy(data)), expected)
    np.testing.assert_array_equal(reorientation.undo(reorientation(data)), data)
    np.testing.assert_array_equal(reorientation.undo(reorientation(torch.from_numpy(data))), data)


@given(
    shape=st.tuples(*[st.integers(1, 512)] * 3),
    size=st.tuples(*[st.sampled_from([0.1, 0.5, 1.0, 3.0, 10.0])] * 3),
    wanted=st.sampled_from([0.1, 0.7, 1.0, 10.0]),
    degrees=st.sampled_from([0.0, 20.0, 45.0]),
)
def test_a_frame_has_no_more_voxels_than_a_file_may(
    shape: tuple[int, int, int], size: tuple[float, float, float], wanted: float, degrees: float
) -> None:
    try:
        resampler = Resampler(Frame("LPS", (wanted,) * 3), shape, oblique(degrees, size))
    except GeometryError as error:
        assert re.search(r"voxels of .* mm.* become .* of .* mm, as the network takes them; at most", str(error))
    else:
        assert np.prod(resampler.shape) <= MAX_VOXELS == header.MAX_VOXELS


def test_a_frame_that_would_fill_the_memory_is_refused_with_its_sizes() -> None:
    with pytest.raises(GeometryError) as refused:
        Resampler(Frame("LPS", (0.1,) * 3), (200, 200, 100), oblique(0, (1.0, 1.0, 2.0)))
    assert str(refused.value) == (
        "200 x 200 x 100 voxels of 1 x 1 x 2 mm become 2000 x 2000 x 2000 of 0.1 x 0.1 x 0.1 mm, as the network takes "
        "them; at most 134,217,728 are made: crop or resample the case"
    )
    assert Resampler(FRAME, (512, 512, 512), LPS).shape == [512, 512, 512]
    with pytest.raises(GeometryError, match="mm that lie obliquely become 725 x 725 x 512 of 1 x 1 x 1 mm"):
        Resampler(FRAME, (512, 512, 512), oblique(45))
