"""Which way is up: axial, coronal and sagittal slices as a radiologist hangs them.

The patient's right is on the viewer's left, anterior or superior is at the top, and a sagittal slice looks to the left.
All three follow from one reorientation of the volume, after which its axes run right to left, anterior to posterior and
superior to inferior: a slice along any of them, transposed, has its rows from top to bottom and its columns from left
to right. World coordinates are NIfTI's: mm that grow towards the patient's right, anterior and superior.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from raum_lightning.geometry import Matrix, Reorientation, bounding_box, voxel_size

Scalar = TypeVar("Scalar", bound=np.generic)
Point = tuple[int, int, int]


class Plane(NamedTuple):
    """A family of parallel slices: across which axis of the reoriented volume, and what lies at the edges of one."""

    name: str
    axis: int
    left: str
    right: str
    top: str
    bottom: str

    @property
    def across(self) -> tuple[int, int]:
        """The axes of the reoriented volume along which columns and rows run."""
        column, row = (axis for axis in range(3) if axis != self.axis)
        return column, row

    def cut(self, volume: NDArray[Scalar], index: int) -> NDArray[Scalar]:
        """One slice, rows from top to bottom and columns from left to right, of a reoriented volume."""
        pixels: NDArray[Scalar] = np.moveaxis(volume, self.axis, 0)[index].T
        return pixels


AXIAL = Plane("axial", 2, "R", "L", "A", "P")
CORONAL = Plane("coronal", 1, "R", "L", "S", "I")
SAGITTAL = Plane("sagittal", 0, "A", "P", "S", "I")
PLANES = (AXIAL, CORONAL, SAGITTAL)


class Upright(Reorientation):
    """The reorientation of arrays of `shape`, X Y Z, with a 4 x 4 `affine`, to how a radiologist hangs slices."""

    def __init__(self, affine: Matrix, shape: Sequence[int]) -> None:
        super().__init__("LPI", shape, affine)

    def index(self, plane: Plane, point: Point) -> tuple[str, int]:
        """Which of the array's axes, i, j or k, `plane` cuts, and at which index at a reoriented `point`."""
        axis, place = self.order[plane.axis], point[plane.axis]
        return "ijk"[axis], self.shape[plane.axis] - 1 - place if axis in self.reverse else place

    def position(self, plane: Plane, point: Point) -> float:
        """Where `plane` through a reoriented `point` lies on the world axis that it cuts: x, y or z in mm."""
        return float((self.affine @ (*point, 1))[plane.axis])

    @property
    def spacing(self) -> tuple[float, ...]:
        """Size of a voxel in mm along the reoriented axes."""
        return voxel_size(self.affine)


def most(mask: NDArray[Any]) -> Point:
    """Along each axis the slice that holds the most of what is not 0 in X Y Z; of several such the middle one."""
    counts = (np.count_nonzero(mask, axis=axes) for axes in ((1, 2), (0, 2), (0, 1)))
    ties = (np.flatnonzero(count == count.max()) for count in counts)
    i, j, k = (int(indices[len(indices) // 2]) for indices in ties)
    return i, j, k


def centre(mask: NDArray[Any]) -> Point:
    """The voxel nearest to the middle of what is not 0 in X Y Z."""
    i, j, k = (round(float(np.mean(places))) for places in np.nonzero(mask))
    return i, j, k


def box_around(mask: NDArray[Any], spacing: Sequence[float], margin: float) -> tuple[slice, slice, slice]:
    """The box around what is not 0 in X Y Z and `margin` mm around it, within the volume."""
    extras = [round(margin / millimetres) for millimetres in spacing]
    x, y, z = (
        slice(max(0, side.start - extra), min(size, side.stop + extra))
        for side, extra, size in zip(bounding_box(mask), extras, mask.shape, strict=True)
    )
    return x, y, z
