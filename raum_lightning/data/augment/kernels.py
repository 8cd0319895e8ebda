"""Augmentation as pure functions on one patch, the same on every device.

An image is C X Y Z, float32, and where said so float16; a label is C X Y Z of any type, C mostly 1. Nothing here is
random: what is sampled comes in as numbers, or as small tensors on the CPU, so that nothing is read back from the
device. No function writes into its arguments.

Positions are in voxels from the centre of a volume, so that any part of a volume about that centre gives what the whole
of it gives, as far as the part extends.
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Size: TypeAlias = tuple[int, int, int]
Params: TypeAlias = dict[str, Tensor]
"""Sampled parameters of a transform: small tensors on the CPU by name."""

BLOCK = 32
"""Voxels along each axis that are interpolated at a time on a CPU, so that what they need stays in its cache."""

SLAB = 8
"""Planes whose nearest neighbours are looked up at a time on a CPU, so that their indices stay in its cache."""

ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
"""Whether convolutions on a CPU are fast."""

BLOCK_Z = 16
"""Voxels along Z that are blurred at a time on a CPU."""


def coordinates(matrix: Tensor, displacement: Tensor | None, out_size: Sequence[int], device: torch.device) -> Tensor:
    """Return where each output voxel comes from: 3 X Y Z, in voxels from the input's centre.

    The output voxel u, in voxels from the output's centre, comes from A (u + d(u)) + t. `matrix` is [A | t], 3 4;
    `displacement` holds the coefficients of d, 3 Kx Ky Kz, in voxels: see `spline`. Affine, elastic and whatever else
    is a matrix are so composed in one sampling.
    """
    x, y, z = (torch.arange(n, device=device, dtype=torch.float32) - (n - 1) / 2 for n in out_size)
    points = torch.empty(3, *out_size, device=device)
    for axis, (ax, ay, az, t) in enumerate(matrix.tolist()):
        torch.add((ax * x[:, None] + (ay * y + t))[..., None], az * z, out=points[axis])
    if displacement is not None:
        # A d(u) is the spline of the coefficients A c
        points += spline(
            torch.einsum("ij,jabc->iabc", matrix[:, :3], displacement).to(device, non_blocking=True), out_size
        )
    return points


def spline(coefficients: Tensor, out_size: Sequence[int]) -> Tensor:
    """Return the uniform cubic B-spline of C Kx Ky Kz coefficients at the voxels of a volume: C X Y Z.

    K - 3 cells span each axis from face to face; the first control point lies one cell before the first face, as in
    Rueckert et al. 1999 (10.1109/42.796284) and ITK. No value exceeds the largest coefficient.
    """
    wx, wy, wz = (
        _spline_basis(n, k, coefficients.device) for n, k in zip(out_size, coefficients.shape[1:], strict=True)
    )
    return separable(coefficients, wx, wy, wz)


def _spline_basis(size: int, points: int, device: torch.device) -> Tensor:
    """Return the weight of each control point at each voxel: size x points, rows sum to one."""
    cell = (torch.arange(size, device=device, dtype=torch.float32) + 0.5) * ((points - 3) / size)
    distance = (cell[:, None] - (torch.arange(points, device=device) - 1)).abs()
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far)


def separable(volume: Tensor, wx: Tensor, wy: Tensor, wz: Tensor) -> Tensor:
    """Multiply by a matrix along each axis: C A B C', by X x A, Y x B and Z x C', to C X Y Z."""
    volume = torch.einsum("xa,iabc->ixbc", wx, volume)
    volume = torch.einsum("yb,ixbc->ixyc", wy, volume)
    return torch.einsum("zc,ixyc->ixyz", wz, volume)


def sample_linear(image: Tensor, points: Tensor) -> Tensor:
    """Return C X Y Z, float16 or float32, at 3 X' Y' Z' positions: float32, trilinear, zero outside."""
    if image.device.type != "cpu":
        return F.grid_sample(image.float()[None], _grid(image, points), align_corners=False)[0]
    sampled = torch.empty(len(image), *points.shape[1:])
    for first in product(*(range(0, size, BLOCK) for size in points.shape[1:])):
        x, y, z = (slice(start, start + BLOCK) for start in first)
        sampled[:, x, y, z] = _sample_planes(image, points[:, x, y, z])
    return sampled


def _sample_planes(image: Tensor, points: Tensor) -> Tensor:
    """Return `sample_linear` by the kernel for two dimensions, which is vectorised on a CPU as that for three is not.

    Of the box that holds all positions, the planes of constant x, one below the other, are one picture of X Y rows and
    Z columns. Sampled bilinearly there and one plane further on, the two are weighted by the fraction of x. Rows are
    counted in float32: two thousand of them, as a block of 32^3 may need, place a sample within 0.0002 voxels. Where
    all of the box is 0, as beside the brain, the result is a single 0.
    """
    sizes = torch.tensor(image.shape[1:])
    at = points.flatten(1) + (sizes[:, None] - 1) / 2
    # what lies outside is moved into a frame of zeros, two voxels wide
    low, high = (
        bound.floor().clamp(min=-2).minimum(sizes).int().tolist() for bound in (at.amin(dim=1), at.amax(dim=1))
    )
    pads = [pad for lo, hi, size in zip(low, high, sizes.tolist(), strict=True) for pad in (hi + 2 - size, -lo)]
    box = F.pad(image, pads[::-1]).float().contiguous()  # cropping keeps the order in memory of a turned image
    if not box.numpy().view(bool).any():  # by bytes, as far as the first that is not 0
        return box.new_zeros(())
    channels, x, y, z = box.shape
    rows = (x - 1) * y
    pair = box.as_strided((2, channels, rows, z), (y * z, x * y * z, z, 1))
    px, py, pz = at.sub_(torch.tensor(low)[:, None])
    fraction = px.clamp_(0, x - 1)
    plane = fraction.floor().clamp_(max=x - 2)
    fraction -= plane
    row = py.clamp_(0, y - 1).add_(plane, alpha=y)
    # as grid_sample counts: in half sizes from the centre
    grid = torch.empty(len(row), 2)
    torch.mul(pz.sub_((z - 1) / 2), 2 / z, out=grid[:, 0])
    torch.mul(row.sub_((rows - 1) / 2), 2 / rows, out=grid[:, 1])
    here, further = F.grid_sample(pair, grid.expand(2, 1, -1, -1), align_corners=False)
    return torch.lerp(here, further, fraction).view(channels, *points.shape[1:])


def sample_nearest(label: Tensor, points: Tensor) -> Tensor:
    """Return C X Y Z at 3 X' Y' Z' positions, nearest neighbour, zero outside; the type stays."""
    framed = F.pad(label, (1,) * 6)  # whatever lies outside is moved onto the frame of zeros
    sampled = label.new_empty(len(label), *points.shape[1:])
    slab = SLAB if label.device.type == "cpu" else points.shape[1]
    for first in range(0, points.shape[1], slab):
        index = _flat_index(framed, points[:, first : first + slab])
        for source, target in zip(framed, sampled, strict=True):
            part = target[first : first + slab]
            part.copy_(source.flatten().index_select(0, index.flatten()).view_as(part))
    return sampled


def _flat_index(volume: Tensor, points: Tensor) -> Tensor:
    """Return the index of the nearest voxel in X Y Z flattened, of 3 X' Y' Z' positions."""
    index = torch.zeros(points.shape[1:], dtype=torch.int32, device=points.device)
    for axis, size in zip(points, volume.shape[1:], strict=True):
        nearest = (axis + (size - 1) / 2).round_().clamp_(0, size - 1)
        index.mul_(size).add_(nearest.to(torch.int32))
    return index


def _grid(volume: Tensor, points: Tensor) -> Tensor:
    """Return positions as `grid_sample` counts them: in half sizes from the centre, the last axis first."""
    planes = torch.empty_like(points)
    for plane, axis in zip(planes, (-1, -2, -3), strict=True):
        torch.mul(points[axis], 2 / volume.shape[axis], out=plane)
    return planes.permute(1, 2, 3, 0)[None]


def permute(
    volume: Tensor, permutation: Tensor, out_size: Sequence[int], offset: Sequence[float] = (0, 0, 0)
) -> Tensor:
    """Return C X Y Z flipped and rotated by multiples of 90 degrees, exactly, zero outside.

    The output's u comes from the input's `permutation` u + `offset`; a signed permutation matrix, 3 3.
    """
    source = permutation.abs().argmax(dim=0).tolist()
    reverse = [axis + 1 for axis in range(3) if permutation[source[axis], axis] < 0]
    permuted = volume.permute(0, *(axis + 1 for axis in source))
    return crop(permuted, out_size, [offset[axis] for axis in source]).flip(reverse)


def crop(volume: Tensor, size: Sequence[int], offset: Sequence[float] = (0, 0, 0)) -> Tensor:
    """Return the box of `size` about the point `offset` of ... X Y Z, zero outside; as it is if that is all of it."""
    pads: list[int] = []
    for have, want, at in zip(volume.shape[:-4:-1], size[::-1], offset[::-1], strict=True):
        first = math.floor((have - want) / 2 + at)
        pads += [-first, first + want - have]
    return F.pad(volume, pads) if any(pads) else volume


def gamma(image: Tensor, exponents: Tensor) -> Tensor:
    """Return sign(x) |x|^g with one exponent per channel, C."""
    # x (x^2)^((g - 1) / 2) by way of a logarithm is faster than a power; that of 0 would be very slow
    tiny = image.new_full((), 1e-37)
    factor = torch.addcmul(tiny, image, image).log2_().mul_(_by_channel((exponents - 1) / 2, image.device)).exp2_()
    return factor.mul_(image)


def scale_shift(image: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return A x + b with one `scale` and `shift` per channel, C each."""
    return (image * _by_channel(scale, image.device)).add_(_by_channel(shift, image.device))


def _by_channel(numbers: Tensor, device: torch.device) -> Tensor:
    return numbers.to(device, non_blocking=True).view(-1, 1, 1, 1)


def noise(image: Tensor, mean: float, std: float, seed: int) -> Tensor:
    """Add Gaussian noise; equal seeds give equal noise on the same kind of device, not from one kind to another."""
    generator = torch.Generator(image.device).manual_seed(seed)
    return torch.empty_like(image).normal_(mean, std, generator=generator).add_(image)


def blur(image: Tensor, std: Sequence[float]) -> Tensor:
    """Blur by a Gaussian with one standard deviation per axis, in voxels; cut off at four, mirrored at the border."""
    for axis, width in enumerate(std, start=1):
        radius = int(4 * width + 0.5)
        if radius:
            weights = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / width) ** 2)
            image = _filter(image.contiguous(), axis, weights / weights.sum())
    return image


def _filter(volume: Tensor, axis: int, weights: Tensor) -> Tensor:
    """Return C X Y Z convolved along one axis with an odd number of weights, the border as scipy's "reflect"."""
    size, radius = volume.shape[axis], len(weights) // 2
    mirrored = _mirrored(size, weights)
    if volume.device.type != "cpu" or not ONEDNN:
        matrix = mirrored.to(volume.device, non_blocking=True)
        return volume @ matrix.T if axis == 3 else (matrix @ volume.flatten(axis + 1)).view_as(volume)
    filtered = _filter_rows(volume, weights) if axis == 3 else _filter_columns(volume, axis, weights)
    missing = mirrored - _toeplitz(size, size, weights)  # but for the ends it is 0
    end = radius if axis < 3 else math.ceil(radius / BLOCK_Z) * BLOCK_Z  # products of whole blocks are faster
    starts, length = ([0, size - end], end) if 2 * end < size else ([0], size)
    for start in starts:
        matrix = missing.narrow(0, start, length).narrow(1, start, length)
        source, target = (whole.narrow(axis, start, length) for whole in (volume, filtered))
        if axis == 3:
            target.flatten(0, 2).addmm_(source.flatten(0, 2), matrix.T)
        else:
            target.flatten(axis + 1).add_(matrix @ source.flatten(axis + 1))
    return filtered


def _filter_columns(volume: Tensor, axis: int, weights: Tensor) -> Tensor:
    """Return C X Y Z convolved along X or Y, zero outside: X Y is a picture whose channels, Z, are apart and last."""
    shape = (-1, 1) if axis == 1 else (1, -1)
    kernel = weights.view(shape).expand(volume.shape[3], 1, -1, -1)
    padding = [size // 2 for size in kernel.shape[2:]]
    filtered = F.conv2d(volume.permute(0, 3, 1, 2), kernel, padding=padding, groups=len(kernel))
    return filtered.permute(0, 2, 3, 1).contiguous()


def _filter_rows(volume: Tensor, weights: Tensor) -> Tensor:
    """Return C X Y Z convolved along Z, zero outside: blocks of Z are the channels of a picture of XY by blocks."""
    size = volume.shape[3]
    filled = F.pad(volume, (0, -size % BLOCK_Z)) if size % BLOCK_Z else volume
    blocks = math.ceil(len(weights) // 2 / BLOCK_Z)  # that the kernel extends to each side
    matrix = _toeplitz(BLOCK_Z, (2 * blocks + 1) * BLOCK_Z, weights, first=blocks * BLOCK_Z)
    kernel = matrix.view(BLOCK_Z, 1, -1, BLOCK_Z).permute(0, 3, 1, 2)
    picture = filled.view(len(volume), -1, filled.shape[3] // BLOCK_Z, BLOCK_Z).permute(0, 3, 1, 2)
    filtered = F.conv2d(picture, kernel, padding=(0, blocks)).permute(0, 2, 3, 1)
    return filtered.reshape(filled.shape)[..., :size]


def _toeplitz(rows: int, columns: int, weights: Tensor, *, first: int = 0) -> Tensor:
    """Return a matrix whose row i holds the weights about the column `first` + i."""
    radius = len(weights) // 2
    index = torch.arange(columns) - torch.arange(rows)[:, None] - first + radius
    return torch.where((index >= 0) & (index < len(weights)), weights[index.clamp(0, len(weights) - 1)], 0)


def _mirrored(size: int, weights: Tensor) -> Tensor:
    """Return convolution and mirroring of a column of `size` voxels in one, size x size."""
    radius = len(weights) // 2
    period = (torch.arange(size)[:, None] + torch.arange(-radius, radius + 1)).remainder(2 * size)
    mirrored = torch.minimum(period, 2 * size - 1 - period)
    return torch.zeros(size, size).scatter_add_(1, mirrored, weights.expand(size, -1))


def bias_field(image: Tensor, coefficients: Tensor, brain_mean: float = 0.0) -> Tensor:
    """Return X times exp of the polynomial sum c_ijk x^i y^j z^k, with x, y, z from -1 to 1.

    `coefficients`: I J K for all channels, or C I J K. Van Leemput et al. 1999 (10.1109/42.811268).
    `brain_mean`, in standard deviations, is what z-scores lack of the intensity that the factor belongs to; with it
    voxels of 0, which lie outside the brain, stay 0.
    """
    bases = []
    for size, order in zip(image.shape[1:], coefficients.shape[-3:], strict=True):
        position = torch.linspace(-1, 1, size, device=image.device)
        bases.append(position[:, None] ** torch.arange(order, device=image.device))
    channels = coefficients.reshape(-1, *coefficients.shape[-3:]).to(image.device, non_blocking=True)
    field = separable(channels, *bases).exp_()
    if brain_mean == 0:
        return image * field
    return torch.where(image == 0, image, (image + brain_mean) * field - brain_mean)
