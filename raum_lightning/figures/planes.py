"""Which way is up: axial, coronal and sagittal slices as a radiologist hangs them.

The patient's right is on the viewer's left, anterior or superior is at the top, and a sagittal slice looks to the left.
All three follow from one turn of the volume, after which its axes run right to left, anterior to posterior and superior
to inferior: a slice along any of them, transposed, has its rows from top to bottom and its columns from left to right.
World coordinates are NIfTI's: mm that grow towards the patient's right, anterior and superior.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from raum_lightning import frame

Scalar = TypeVar("Scalar", bound=np.generic)
Point = tuple[int, int, int]


class Plane(NamedTuple):
    """A family of parallel slices: across which axis of the turned volume, and what lies at the edges of one."""

    name: str
    axis: int
    left: str
    right: str
    top: str
    bottom: str

    @property
    def across(self) -> tuple[int, int]:
        """The axes of the turned volume along which columns and rows run."""
        column, row = (axis for axis in range(3) if axis != self.axis)
        return column, row

    def cut(self, volume: NDArray[Scalar], index: int) -> NDArray[Scalar]:
        """One slice, rows from top to bottom and columns from left to right, of a turned volume."""
        pixels: NDArray[Scalar] = np.moveaxis(volume, self.axis, 0)[index].T
        return pixels


AXIAL = Plane("axial", 2, "R", "L", "A", "P")
CORONAL = Plane("coronal", 1, "R", "L", "S", "I")
SAGITTAL = Plane("sagittal", 0, "A", "P", "S", "I")
PLANES = (AXIAL, CORONAL, SAGITTAL)


@dataclass(frozen=True)
class Turn:
    """How an array X Y Z is turned: the order of its axes, and which of them are then reversed.

    `affine` takes the turned array's voxels to mm.
    """

    axes: tuple[int, ...]
    reverse: tuple[bool, ...]
    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    @classmethod
    def of(cls, affine: NDArray[np.float64], shape: Sequence[int]) -> "Turn":
        """The turn for arrays of `shape` on a grid with `affine`; an oblique one is taken for its nearest neighbour."""
        turn = frame.Turn("LPI", shape, affine)
        reverse = tuple(axis in turn.reverse for axis in turn.order)
        return cls(tuple(turn.order), reverse, turn.turned_shape, turn.turned_affine)

    def __call__(self, volume: NDArray[Scalar]) -> NDArray[Scalar]:
        """The turned view of an array X Y Z."""
        steps = tuple(slice(None, None, -1 if reversed_ else 1) for reversed_ in self.reverse)
        return volume.transpose(self.axes)[steps]

    def voxel(self, point: Sequence[int]) -> Point:
        """Where voxel X, Y, Z of the array lies in the turned one."""
        i, j, k = (
            size - 1 - point[axis] if reversed_ else point[axis]
            for axis, reversed_, size in zip(self.axes, self.reverse, self.shape, strict=True)
        )
        return i, j, k

    def index(self, plane: Plane, point: Point) -> tuple[str, int]:
        """Which of the array's axes, i, j or k, `plane` cuts, and at which index at a turned `point`."""
        place = self.shape[plane.axis] - 1 - point[plane.axis] if self.reverse[plane.axis] else point[plane.axis]
        return "ijk"[self.axes[plane.axis]], place

    def position(self, plane: Plane, point: Point) -> float:
        """Where `plane` through a turned `point` lies on the world axis that it cuts: x, y or z in mm."""
        return float((self.affine @ (*point, 1))[plane.axis])

    @property
    def spacing(self) -> tuple[float, ...]:
        """Size of a voxel in mm along the turned axes."""
        return frame.voxel_size(self.affine)


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
        for side, extra, size in zip(frame.bounding_box(mask), extras, mask.shape, strict=True)
    )
    return x, y, z
