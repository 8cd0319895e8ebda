"""The kernels against TorchIO's transforms, which SimpleITK and scipy compute, at the same parameters."""

from itertools import permutations
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torchio as tio
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional

from raum_lightning.data.augment import kernels
from raum_lightning.data.augment.kernels import Size
from raum_lightning.data.augment.spatial import affine, rotation

SHAPE = (30, 24, 27)
IDENTITY = torch.eye(3, 4)
FLIP_XZ = torch.diag(torch.tensor([-1.0, 1.0, -1.0]))


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def smooth(*shape: int, channels: int = 2) -> Tensor:
    """Waves long enough for trilinear interpolation, between -1 and 1."""
    x, y, z = torch.meshgrid(*(torch.arange(n) / 7 for n in shape), indexing="ij")
    return torch.stack([torch.sin(x + c) * torch.cos(y - c) * torch.sin(z + 2) for c in range(channels)])


def boxes(*shape: int) -> Tensor:
    """Three classes in solid boxes, 1 X Y Z uint8."""
    label = torch.zeros(1, *shape, dtype=torch.uint8)
    for value, first in enumerate((5, 9, 13), start=1):
        label[:, first : first + 10, first - 2 : first + 7, first - 1 : first + 9] = value
    return label


def run(transform: tio.Transform, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    moved = transform(tio.Subject(image=tio.ScalarImage(tensor=image), label=tio.LabelMap(tensor=label)))
    return moved["image"].data, moved["label"].data


def displacement_of(control_points: Tensor) -> Tensor:
    """TorchIO's control points in our terms: they and its vectors run along L, P and S, its volume along R, A and S."""
    return (control_points * torch.tensor([-1.0, -1.0, 1.0])).permute(3, 0, 1, 2).flip(1, 2)


def assert_samples(
    matrix: Tensor, displacement: Tensor | None, transform: tio.Transform, tolerance: float, share: float
) -> None:
    """Images within `tolerance` and all labels but `share`, off the volume's border."""
    image, label = smooth(*SHAPE), boxes(*SHAPE)
    want, want_label = run(transform, image, label)
    points = kernels.coordinates(matrix, displacement, SHAPE, image.device)
    inside = (points.abs() < torch.tensor(SHAPE).view(3, 1, 1, 1) / 2 - 1.5).all(0)
    inside &= kernels.crop(torch.ones(24, 18, 21, dtype=torch.bool), SHAPE)
    assert inside.float().mean() > 0.3
    assert (kernels.sample_linear(image, points) - want)[:, inside].abs().max() < tolerance
    assert (kernels.sample_nearest(label, points) != want_label)[:, inside].float().mean() <= share


@pytest.mark.parametrize(
    ("scales", "degrees", "translation"),
    [
        ((1.0, 1.0, 1.0), (20.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((1.3, 0.8, 1.1), (0.0, 0.0, 0.0), (2.4, -1.0, 3.0)),
        ((0.9, 1.2, 1.05), (11.0, -17.0, 25.0), (1.5, 2.0, -0.7)),
    ],
)
def test_affine_is_torchios(
    scales: tuple[float, float, float], degrees: tuple[float, float, float], translation: tuple[float, float, float]
) -> None:
    transform = tio.Affine(scales=scales, degrees=degrees, translation=translation)
    assert_samples(affine(scales, degrees, translation), None, transform, tolerance=2e-5, share=1e-3)


def test_elastic_is_torchios() -> None:
    field = (torch.rand(7, 7, 7, 3) - 0.5) * 5
    transform = tio.ElasticDeformation(control_points=field.numpy(), max_displacement=(0.1, 0.1, 0.1))
    # ITK's grid is an eighth of a voxel larger on each side
    assert_samples(IDENTITY, displacement_of(field), transform, tolerance=5e-3, share=2e-3)


def test_one_sampling_is_torchios_three() -> None:
    field = (torch.rand(7, 7, 7, 3) - 0.5) * 4
    scales, degrees, translation = (1.1, 1.2, 1.3), (5.0, -8.0, 12.0), (1.0, 0.5, -1.0)
    transform = tio.Compose(
        [
            tio.Flip(axes=(0, 2)),
            tio.Affine(scales=scales, degrees=degrees, translation=translation),
            tio.ElasticDeformation(control_points=field.numpy(), max_displacement=(0.1, 0.1, 0.1)),
        ]
    )
    matrix = FLIP_XZ @ affine(scales, degrees, translation)
    # TorchIO interpolates twice, and rounds labels twice
    assert_samples(matrix, displacement_of(field), transform, tolerance=0.02, share=0.05)


@pytest.mark.slow
@settings(max_examples=60)
@given(
    shape=st.tuples(*[st.integers(1, 20)] * 3),
    out_shape=st.tuples(*[st.integers(1, 20)] * 3),
    reach=st.sampled_from([0.5, 1, 3]),
    seed=st.integers(0, 2**31),
)
def test_linear_sampling_is_torchs(
    shape: tuple[int, int, int], out_shape: tuple[int, int, int], reach: float, seed: int
) -> None:
    """At positions without any order, inside, on and beyond the border, against three dimensions in float64."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, *shape, generator=generator)
    half = torch.tensor(shape).view(3, 1, 1, 1) / 2
    points = (torch.rand(3, *out_shape, generator=generator) * 2 - 1) * half * reach
    grid = (points / half).flip(0).permute(1, 2, 3, 0)
    want = functional.grid_sample(image[None].double(), grid[None].double(), align_corners=False)[0]
    torch.testing.assert_close(kernels.sample_linear(image, points).double(), want, atol=5e-4, rtol=0)


@pytest.mark.slow
@settings(max_examples=20)
@given(
    filled=st.tuples(*[st.tuples(st.integers(0, 40), st.integers(1, 10))] * 3),
    shift=st.tuples(*[st.floats(-60, 60)] * 3),
    scale=st.floats(0.3, 1.5),
)
def test_linear_sampling_around_a_few_voxels_is_torchs(
    filled: tuple[tuple[int, int], ...], shift: tuple[float, ...], scale: float
) -> None:
    """Blocks of 32^3 without anything in them are left out, and no others."""
    image = torch.zeros(2, 40, 44, 48)
    image[:, *(slice(first, first + count) for first, count in filled)] = torch.rand(()) + 1
    points = kernels.coordinates(
        affine((1 / scale,) * 3, (5.0, 0.0, -8.0), (0.0,) * 3)
        + torch.cat([torch.zeros(3, 3), torch.tensor(shift)[:, None]], 1),
        None,
        (70, 66, 34),
        image.device,
    )
    grid = (2 * points.double() / torch.tensor(image.shape[1:]).view(3, 1, 1, 1)).flip(0).permute(1, 2, 3, 0)
    want = functional.grid_sample(image[None].double(), grid[None], align_corners=False)[0]
    torch.testing.assert_close(kernels.sample_linear(image, points).double(), want, atol=5e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_linear_sampling_does_not_depend_on_the_order_in_memory(dtype: torch.dtype) -> None:
    image = torch.randn(2, 12, 10, 14).to(dtype)
    points = torch.rand(3, 8, 8, 8) * 6 - 3
    for order in permutations((1, 2, 3)):
        back = [0, *(1 + order.index(axis) for axis in (1, 2, 3))]
        turned = image.permute(0, *order).contiguous().permute(back)  # the same numbers
        assert torch.equal(kernels.sample_linear(turned, points), kernels.sample_linear(image, points))


def test_linear_sampling_of_a_patch_is_off_by_less_than_a_thousandth_of_a_voxel() -> None:
    ramp = torch.arange(150.0).expand(150, 150, 150)
    image = torch.stack([ramp.permute(2, 0, 1), ramp.permute(0, 2, 1), ramp]) - 149 / 2
    points = kernels.coordinates(affine((0.9,) * 3, (15.0, -12.0, 14.0), (2.0, 1.0, 0.5)), None, (96,) * 3, ramp.device)
    assert points.abs().max() > 70
    inside = (points.abs() < 74).all(0)
    assert (kernels.sample_linear(image, points) - points)[:, inside].abs().max() < 5e-4


def test_flip_is_torchios_to_the_last_bit() -> None:
    image, label = torch.randn(2, *SHAPE), boxes(*SHAPE)
    want, want_label = run(tio.Flip(axes=(0, 2)), image, label)
    assert torch.equal(kernels.permute(image, FLIP_XZ, SHAPE), want)
    assert torch.equal(kernels.permute(label, FLIP_XZ, SHAPE), want_label)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("turns", [1, 2, 3])
def test_quarter_turns_move_voxels_as_sampling_does(axis: int, turns: int) -> None:
    image = torch.randn(2, 9, 9, 9)
    degrees = torch.zeros(3)
    degrees[axis] = 90 * turns
    matrix = FLIP_XZ @ rotation(degrees).round()
    points = kernels.coordinates(torch.cat([matrix, torch.zeros(3, 1)], 1), None, (9, 9, 9), image.device)
    torch.testing.assert_close(
        kernels.permute(image, matrix, (9, 9, 9)), kernels.sample_linear(image, points), atol=1e-4, rtol=0
    )


def test_a_part_of_the_volume_gives_what_the_whole_gives() -> None:
    image, label = smooth(40, 36, 38), boxes(40, 36, 38)
    matrix = affine((1.1, 0.9, 1.0), (10.0, -12.0, 8.0), (0.0, 0.0, 0.0))
    points = kernels.coordinates(matrix, torch.rand(3, 6, 6, 6), (16, 16, 16), image.device)
    part = (slice(None), slice(6, 34), slice(4, 32), slice(5, 33))  # about the same centre
    torch.testing.assert_close(
        kernels.sample_linear(image[part], points), kernels.sample_linear(image, points), atol=1e-5, rtol=0
    )
    assert torch.equal(kernels.sample_nearest(label[part], points), kernels.sample_nearest(label, points))


def test_outside_is_zero() -> None:
    points = torch.tensor([[-2.6, 0.0], [0.0, 0.0], [0.0, 2.6]]).view(3, 2, 1, 1)
    assert not kernels.sample_nearest(torch.ones(1, 5, 5, 5), points).any()
    points = torch.tensor([[-3.1, 0.0], [0.0, 0.0], [0.0, 3.1]]).view(3, 2, 1, 1)
    assert not kernels.sample_linear(torch.ones(1, 5, 5, 5), points).any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float32])
def test_labels_keep_type_and_values(dtype: torch.dtype) -> None:
    label = boxes(*SHAPE).to(dtype)
    points = kernels.coordinates(affine((1.2, 1.0, 0.9), (9.0, 3.0, -7.0), (0.3, 0.0, 0.0)), None, SHAPE, label.device)
    moved = kernels.sample_nearest(label, points)
    assert moved.dtype == dtype
    assert moved.unique().tolist() == [0, 1, 2, 3]


def test_crop_pads_with_zero_and_follows_the_offset() -> None:
    line = torch.arange(1.0, 7.0).view(1, 6, 1, 1)
    assert kernels.crop(line, (4, 1, 1), (1, 0, 0)).flatten().tolist() == [3, 4, 5, 6]
    assert kernels.crop(line, (4, 1, 1), (-2, 0, 0)).flatten().tolist() == [0, 1, 2, 3]
    assert kernels.crop(line, (8, 1, 1)).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 0]


def test_gamma_is_torchios() -> None:
    image = torch.randn(2, *SHAPE)
    want, _ = run(tio.Gamma([0.8, 1.3]), image, boxes(*SHAPE))
    torch.testing.assert_close(kernels.gamma(image, torch.tensor([0.8, 1.3])), want)


def test_blur_is_torchios() -> None:
    image, std = torch.randn(2, *SHAPE), (1.7, 0.0, 0.6)
    want, _ = run(tio.Blur(std), image, boxes(*SHAPE))
    torch.testing.assert_close(kernels.blur(image, std), want, atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("onednn", [True, False])
@given(shape=st.tuples(*[st.integers(1, 70)] * 3), std=st.tuples(*[st.floats(0, 9)] * 3), contiguous=st.booleans())
def test_blur_is_scipys(onednn: bool, shape: Size, std: tuple[float, float, float], contiguous: bool) -> None:
    image = torch.randn(2, *shape) if contiguous else torch.randn(2, *shape[::-1]).transpose(1, 3)
    before = image.clone()
    want = [gaussian_filter(channel.double().numpy(), std, mode="reflect", truncate=4) for channel in image]
    with patch.object(kernels, "ONEDNN", onednn):
        blurred = kernels.blur(image, std)
    torch.testing.assert_close(blurred.double(), torch.from_numpy(np.stack(want)), atol=2e-6, rtol=0)
    torch.testing.assert_close(image, before, atol=0, rtol=0)


def test_bias_field_is_torchios() -> None:
    image, coefficients = torch.randn(2, *SHAPE), torch.zeros(4, 4, 4)
    listed = torch.rand(20) - 0.5
    degree = torch.arange(4)[:, None, None] + torch.arange(4)[:, None] + torch.arange(4)
    coefficients[degree <= 3] = listed  # in TorchIO's order: z fastest
    want, _ = run(tio.BiasField(listed.tolist(), order=3), image, boxes(*SHAPE))
    torch.testing.assert_close(kernels.bias_field(image, coefficients), want, atol=1e-5, rtol=1e-5)


def test_bias_field_of_z_scores_is_that_of_the_intensity_before_them() -> None:
    intensity, coefficients = torch.rand(2, *SHAPE) * 200 + 50, (torch.rand(2, 3, 3, 3) - 0.5) / 5
    mean, std = 150.0, 50.0
    biased = torch.stack([kernels.bias_field(x[None], c)[0] for x, c in zip(intensity, coefficients, strict=True)])
    changed = kernels.bias_field((intensity - mean) / std, coefficients, brain_mean=mean / std)
    torch.testing.assert_close(changed, (biased - mean) / std, atol=1e-4, rtol=1e-4)


def test_bias_field_leaves_what_is_outside_the_brain() -> None:
    image = torch.tensor([0.0, 1.0, -3.0]).view(1, 3, 1, 1)
    changed = kernels.bias_field(image, torch.full((1, 1, 1), 2.0).log(), brain_mean=3.0)
    assert changed.flatten().tolist() == [0.0, 5.0, -3.0]


def test_scale_shift_by_channel() -> None:
    image = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    changed = kernels.scale_shift(image, torch.tensor([1.5, 0.5]), torch.tensor([0.25, -3.0]))
    assert changed.flatten().tolist() == [1.75, -2.0]


def test_noise_has_its_moments_and_follows_its_seed() -> None:
    image = torch.full((2, 40, 40, 40), 5.0)
    noise = kernels.noise(image, 0.5, 0.2, seed=3) - image
    assert noise.mean() == pytest.approx(0.5, abs=0.003)
    assert noise.std() == pytest.approx(0.2, abs=0.003)
    neighbours = ((noise[:, 1:] - 0.5) * (noise[:, :-1] - 0.5)).mean() / 0.04
    assert neighbours.abs() < 0.02
    assert torch.equal(noise, kernels.noise(image, 0.5, 0.2, seed=3) - image)
    assert not torch.equal(noise, kernels.noise(image, 0.5, 0.2, seed=4) - image)
