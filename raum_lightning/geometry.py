"""Grids of voxels: their orientation, reorientation, resampling, and the box of the brain in them.

A network is trained on arrays whose axes run one way through the head ("LPS": left, posterior, superior) and whose
voxels have one size. A case of another orientation is reoriented, by permuting and reversing its axes, which changes no
value. Only where its voxels differ in size by more than 1 %, or it is oblique by more than 3 degrees, is it resampled.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, TypeVar

import nibabel as nib
import numpy as np
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from torch.nn.functional import affine_grid, grid_sample

from raum_lightning.errors import GeometryError

SIZE_TOLERANCE = 0.01
OBLIQUE_DEGREES = 3.0
# voxels that are resampled at once
SLAB = 1 << 21
# in a volume, as it is read and as it is resampled: 512 x 512 x 512
MAX_VOXELS = 2**27

Matrix = NDArray[np.float64]
Box = tuple[slice, slice, slice]
Array = TypeVar("Array", torch.Tensor, NDArray[Any])


def axis_codes(affine: Matrix) -> str:
    """Return where the axes of an array with this 4 x 4 affine run, such as "LPS"; the nearest where it is oblique."""
    return "".join(nib.aff2axcodes(affine))


def voxel_size(affine: Matrix) -> tuple[float, float, float]:
    """Return the voxel size in mm along X, Y, Z of an array with this 4 x 4 affine."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return x, y, z


def tilt(affine: Matrix) -> float:
    """Return by how many degrees the most oblique axis differs from the nearest direction of the world."""
    cosines = np.abs(affine[:3, :3] / voxel_size(affine)).max(axis=0)
    return float(np.degrees(np.arccos(cosines.min().clip(max=1))))


def brain_mask(image: Array) -> Array:
    """Return where any channel of ... C X Y Z is not 0: ... X Y Z, boolean.

    Images are exactly 0 outside the brain, on disk, when prepared, and as a network sees them.
    """
    mask: Array = (image != 0).any(-4)
    return mask


def bounding_box(mask: torch.Tensor | NDArray[Any]) -> Box:
    """Return the smallest box that holds all that is not 0 in X Y Z; an empty one where everything is."""
    extents = (torch.as_tensor(mask.any(axes)).nonzero().flatten() for axes in ((1, 2), (0, 2), (0, 1)))
    x, y, z = (slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0) for found in extents)
    return x, y, z


class Reorientation:
    """The axes of arrays on a grid, permuted and reversed until they run as `codes` say; no value changes.

    Args:
        codes: Axis codes of the result, such as "LPS"; an oblique grid is taken for its nearest neighbour.
        shape: X Y Z of the arrays, in voxels.
        affine: 4 x 4, from their voxels to mm.

    `order` names, for each axis of the result, the one that becomes it, and `reverse` the old axes that run the other
    way. `shape` and `affine` are those of the result.
    """

    def __init__(self, codes: str, shape: Sequence[int], affine: Matrix) -> None:
        moves = ornt_transform(io_orientation(affine), axcodes2ornt(codes))
        self.order: list[int] = np.argsort(moves[:, 0]).tolist()
        self.reverse = [axis for axis in range(3) if moves[axis, 1] < 0]
        self.shape = tuple(shape[axis] for axis in self.order)
        self.affine: Matrix = affine @ inv_ornt_aff(moves, shape)

    def __call__(self, array: Array) -> Array:
        """Return an array ... X Y Z reoriented; a view where it is NumPy's."""
        source, target = self._last(self.order), (-3, -2, -1)
        if isinstance(array, torch.Tensor):
            return array.flip(self._last(self.reverse)).movedim(source, target)
        return np.moveaxis(np.flip(array, self._last(self.reverse)), source, target)

    def undo(self, array: Array) -> Array:
        """Return a reoriented array ... x y z with its axes as they were; a view where it is NumPy's."""
        source, target = (-3, -2, -1), self._last(self.order)
        if isinstance(array, torch.Tensor):
            return array.movedim(source, target).flip(self._last(self.reverse))
        return np.flip(np.moveaxis(array, source, target), self._last(self.reverse))

    def voxel(self, point: Sequence[int]) -> tuple[int, int, int]:
        """Return where voxel X, Y, Z of the array lies in the reoriented one."""
        x, y, z = (
            size - 1 - point[axis] if axis in self.reverse else point[axis]
            for axis, size in zip(self.order, self.shape, strict=True)
        )
        return x, y, z

    @staticmethod
    def _last(axes: Sequence[int]) -> tuple[int, ...]:
        return tuple(axis - 3 for axis in axes)


@dataclass(frozen=True)
class Frame:
    """Axis codes, such as "LPS", and voxel size in mm of the arrays that a network takes."""

    orientation: str
    spacing: tuple[float, float, float]


class Resampler:
    """Moves arrays from the grid of a case into `frame` and back.

    Both grids share their centre, and the frame's covers the case's.

    Args:
        frame: The orientation and voxel size that the network takes.
        shape: X Y Z of the case's arrays, in voxels.
        affine: 4 x 4, from their voxels to mm.

    Raises:
        GeometryError: The case would have more than `MAX_VOXELS` in the frame.
    """

    def __init__(self, frame: Frame, shape: Sequence[int], affine: Matrix) -> None:
        self.reorientation = Reorientation(frame.orientation, shape, affine)
        axes = self.reorientation.affine[:3, :3]
        own = np.asarray(voxel_size(axes))
        target = axcodes2ornt(frame.orientation)
        straight = np.zeros((3, 3))
        straight[target[:, 0].astype(int), range(3)] = target[:, 1]
        oblique = tilt(axes) > OBLIQUE_DEGREES
        wanted = np.asarray(frame.spacing)
        size = np.where(np.abs(own / wanted - 1) > SIZE_TOLERANCE, wanted, own)
        self.resamples = oblique or bool((size != own).any())
        # reoriented voxels per voxel of the frame
        self.matrix = np.linalg.inv(axes) @ ((straight if oblique else axes / own) * size)
        extent = np.abs(np.linalg.inv(self.matrix)) @ self.reorientation.shape
        voxels = np.ceil(extent - SIZE_TOLERANCE)
        if not np.prod(voxels) <= MAX_VOXELS:
            raise GeometryError(
                f"{_by(shape)} voxels of {_by(own)} mm{' that lie obliquely' * oblique} become {_by(voxels)} of "
                f"{_by(size)} mm, as the network takes them; at most {MAX_VOXELS:,} are made: crop or resample the case"
            )
        self.shape = voxels.astype(int).tolist()

    def to_frame(self, image: torch.Tensor) -> torch.Tensor:
        """Return an image C X Y Z of the case as C x y z in the frame; what is 0 in all channels is not brain, stays 0.

        Where it resamples, voxels that are brain by at least half get the mean over that part of them, so that the
        brain has no dark rim.
        """
        share = self.brain_share(brain_mask(image))
        return torch.stack([self.channel_to_frame(channel, share) for channel in image])

    def brain_share(self, brain: torch.Tensor) -> torch.Tensor:
        """Return, for each voxel x y z of the frame, how much of it is brain, X Y Z boolean on the grid of the case.

        Boolean where nothing is resampled.
        """
        reoriented = self.reorientation(brain)
        if not self.resamples:
            return reoriented
        return sample(reoriented.float()[None], self.matrix, self.shape, padding="zeros")[0]

    def channel_to_frame(self, channel: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """Return one channel X Y Z of an image as x y z in the frame, where `share` is that of `brain_share`."""
        reoriented = self.reorientation(channel)
        if not self.resamples:
            return reoriented
        values = sample(reoriented[None], self.matrix, self.shape, padding="zeros")[0]
        return values.div_(share.clamp(min=0.5)).masked_fill_(share < 0.5, 0)

    def from_frame(self, values: torch.Tensor) -> torch.Tensor:
        """Return values K x y z of the frame, such as probabilities, as K X Y Z on the grid of the case."""
        return self.reorientation.undo(torch.cat(list(self.slabs_from_frame(values)), dim=1))

    def slabs_from_frame(self, values: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yield values K x y z of the frame on the grid of the reoriented case, in slabs along the first axis."""
        shape = self.reorientation.shape
        step = max(1, SLAB // (shape[1] * shape[2]))
        for first in range(0, shape[0], step):
            rows = slice(first, min(first + step, shape[0]))
            if self.resamples:
                yield sample(values, np.linalg.inv(self.matrix), shape, padding="border", rows=rows)
            else:
                yield values[:, rows]


def _by(sizes: Iterable[float]) -> str:
    return " x ".join(f"{size:.6g}" for size in sizes)


def sample(
    volume: torch.Tensor,
    matrix: Matrix,
    shape: Sequence[int],
    *,
    padding: Literal["zeros", "border"],
    rows: slice | None = None,
) -> torch.Tensor:
    """Return the values of C X Y Z, by trilinear interpolation, on a grid of `shape` that has the same centre.

    `matrix`, 3 x 3, takes a step on the new grid to one on that of `volume`, in voxels. A new voxel that spans several
    old ones is their mean, taken at as many points. Beyond the volume there is 0 or, with `padding` "border", what is
    nearest. `rows` asks for these only along the first axis of the new grid.
    """
    if rows is None:  # in slabs, as the places of all new voxels would take three times their memory
        step = max(1, SLAB // (shape[1] * shape[2]))
        slabs = [slice(first, min(first + step, shape[0])) for first in range(0, shape[0], step)]
        total = volume.new_empty(len(volume), *shape)
        for slab in slabs:
            total[:, slab] = sample(volume, matrix, shape, padding=padding, rows=slab)
        return total
    old = np.asarray(volume.shape[1:])
    # grid_sample counts from the centre in half lengths, and its axes backwards
    theta = (matrix * np.asarray(shape) / old[:, None])[::-1, ::-1]
    counts = np.linalg.norm(matrix, axis=0).round().clip(1).astype(int).tolist()
    points = list(product(*((np.arange(count) + 0.5) / count - 0.5 for count in counts)))
    # the slab's centre in half lengths of the grid, and its share of them
    centre, share = (rows.start + rows.stop) / shape[0] - 1, (rows.stop - rows.start) / shape[0]
    size = [rows.stop - rows.start, *shape[1:]]
    total = volume.new_zeros(len(volume), *size)
    for point in points:
        shift = (matrix @ point * 2 / old)[::-1] + theta[:, 2] * centre
        where = torch.from_numpy(np.column_stack([theta * [1, 1, share], shift])).to(volume)
        grid = affine_grid(where[None], [1, 1, *size], align_corners=False)
        total += grid_sample(volume[None], grid, mode="bilinear", padding_mode=padding, align_corners=False)[0]
    return total / len(points)
