"""Between the grid of a case and the frame in which a network was trained.

A network has seen arrays whose axes run one way through the head ("LPS": towards left, posterior, superior) and whose
voxels have one size. A case that lies otherwise is turned, by permuting and reversing its axes, which changes no value.
Only where its voxels differ in size by more than 1 %, or its axes lean by more than 3 degrees, is it resampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal

import nibabel as nib
import numpy as np
import torch
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray
from torch.nn.functional import affine_grid, grid_sample

SIZE_TOLERANCE = 0.01
OBLIQUE_DEGREES = 3.0

Matrix = NDArray[np.float64]


class FrameError(ValueError):
    """An affine that says nothing about where the voxels lie."""


def axis_codes(affine: Matrix) -> str:
    """Where the axes of an array with this 4 x 4 affine run, such as "LPS"; the nearest of each where it is oblique."""
    return "".join(nib.aff2axcodes(affine))


def voxel_size(affine: Matrix) -> tuple[float, float, float]:
    """Voxel size in mm along X, Y, Z of an array with this 4 x 4 affine."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    return x, y, z


@dataclass(frozen=True)
class Frame:
    """Axis codes, such as "LPS", and voxel size in mm of the arrays that a network takes."""

    orientation: str
    spacing: tuple[float, float, float]


class Passage:
    """The way of arrays from the grid of a case, with `shape` X Y Z and a 4 x 4 `affine`, into `frame`, and back.

    Both grids share their centre, and the frame's covers the case's. Raises `FrameError` where the affine is singular.
    """

    def __init__(self, frame: Frame, shape: Sequence[int], affine: Matrix) -> None:
        if not abs(np.linalg.det(affine[:3, :3])) > 0:
            raise FrameError(f"the affine {np.round(affine[:3], 3).tolist()} gives voxels no size; mend the header")
        target = axcodes2ornt(frame.orientation)
        turn = ornt_transform(io_orientation(affine), target)
        self.order = np.argsort(turn[:, 0]).tolist()
        self.reverse = [axis + 1 for axis in range(3) if turn[axis, 1] < 0]
        self.turned_shape = [shape[axis] for axis in self.order]
        turned = (affine @ inv_ornt_aff(turn, shape))[:3, :3]
        own = np.linalg.norm(turned, axis=0)
        straight = np.zeros((3, 3))
        straight[target[:, 0].astype(int), range(3)] = target[:, 1]
        oblique = bool(((turned / own * straight).sum(axis=0) < np.cos(np.radians(OBLIQUE_DEGREES))).any())
        wanted = np.asarray(frame.spacing)
        size = np.where(np.abs(own / wanted - 1) > SIZE_TOLERANCE, wanted, own)
        self.resamples = oblique or bool((size != own).any())
        # turned voxels per voxel of the frame
        self.matrix = np.linalg.inv(turned) @ ((straight if oblique else turned / own) * size)
        extent = np.abs(np.linalg.inv(self.matrix)) @ self.turned_shape
        self.shape = np.ceil(extent - SIZE_TOLERANCE).astype(int).tolist()

    def enter(self, image: torch.Tensor) -> torch.Tensor:
        """An image C X Y Z of the case as C x y z in the frame; what is 0 in all channels is no brain and stays 0.

        Where it resamples, voxels that are brain by at least half get the mean over that part of them, so that the
        brain has no dark rim.
        """
        turned = image.flip(self.reverse).permute(0, *(axis + 1 for axis in self.order))
        if not self.resamples:
            return turned
        brain = (turned != 0).any(dim=0, keepdim=True)
        values = sample(torch.cat([turned, brain.to(turned)]), self.matrix, self.shape, padding="zeros")
        part = values[-1:]
        return torch.where(part >= 0.5, values[:-1] / part.clamp(min=0.5), 0)

    def leave(self, values: torch.Tensor) -> torch.Tensor:
        """Values K x y z of the frame, such as probabilities, as K X Y Z on the grid of the case."""
        if self.resamples:
            values = sample(values, np.linalg.inv(self.matrix), self.turned_shape, padding="border")
        return values.permute(0, *(axis + 1 for axis in np.argsort(self.order).tolist())).flip(self.reverse)


def sample(
    volume: torch.Tensor, matrix: Matrix, shape: Sequence[int], *, padding: Literal["zeros", "border"]
) -> torch.Tensor:
    """Values of C X Y Z, by trilinear interpolation, on a grid of `shape` that has the same centre.

    `matrix`, 3 x 3, takes a step on the new grid to one on that of `volume`, in voxels. A new voxel that spans several
    old ones is their mean, taken at as many points. Beyond the volume there is 0 or, with `padding` "border", what is
    nearest.
    """
    old = np.asarray(volume.shape[1:])
    # grid_sample counts from the centre in half lengths, and its axes backwards
    theta = (matrix * np.asarray(shape) / old[:, None])[::-1, ::-1]
    counts = np.linalg.norm(matrix, axis=0).round().clip(1).astype(int).tolist()
    points = list(product(*((np.arange(count) + 0.5) / count - 0.5 for count in counts)))
    total = volume.new_zeros(len(volume), *shape)
    for point in points:
        shift = (matrix @ point * 2 / old)[::-1]
        where = torch.from_numpy(np.column_stack([theta, shift])).to(volume)
        grid = affine_grid(where[None], [1, 1, *shape], align_corners=False)
        total += grid_sample(volume[None], grid, mode="bilinear", padding_mode=padding, align_corners=False)[0]
    return total / len(points)
