"""Geometry of a synthetic head: implicit surfaces and smooth random fields, sampled at the voxels of its brain.

Every structure is a signed distance in mm, negative inside, on a canvas of 240 x 240 x 155 mm with its origin in the
middle: x to the left, y to the back, z up, as the arrays of BraTS run. Any shape samples the same canvas, more or less
finely, so that anatomy does not depend on the shape. Distances to ellipsoids are Quilez' first-order approximation
(iquilezles.org/articles/ellipsoids).
"""

from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Field = NDArray[np.floating[Any]]  # float32 throughout

CANVAS = (240.0, 240.0, 155.0)
HEAD = (84.0, 104.0, 75.0)  # half the extent that a head can take on the canvas, mm


def ellipsoid(points: Field, centre: ArrayLike, radii: ArrayLike) -> Field:
    """Distance of `points`, 3 by any shape, to the surface of an ellipsoid along the axes."""
    offset = (points - _beside(points, centre)) / _beside(points, radii)
    scaled: Field = np.linalg.norm(offset, axis=0)
    slope: Field = np.linalg.norm(offset / _beside(points, radii), axis=0)
    return scaled * (scaled - 1) / np.maximum(slope, 1e-6)


def capsule(points: Field, start: ArrayLike, end: ArrayLike, radius: float) -> Field:
    """Distance of `points`, 3 by any shape, to the surface of a cylinder with round ends."""
    axis = _beside(points, end) - _beside(points, start)
    offset = points - _beside(points, start)
    along = np.clip((offset * axis).sum(0) / (axis * axis).sum(), 0, 1)
    distance: Field = np.linalg.norm(offset - along * axis, axis=0)
    return distance - radius


def _beside(points: Field, vector: ArrayLike) -> Field:
    return np.asarray(vector, np.float32).reshape(3, *[1] * (points.ndim - 1))


def mirror(points: Field) -> Field:
    """`points`, 3 by any shape, on the left side of the head."""
    return np.stack([np.abs(points[0]), points[1], points[2]])


def union(*distances: Field) -> Field:
    """Distance to the nearest of several structures."""
    return reduce(np.minimum, distances)


def cover(distance: Field, width: float) -> Field:
    """The part of each voxel, 0 to 1, that a structure takes, when its surface is blurred over `width` mm."""
    part: Field = np.clip(0.5 - distance / width, 0, 1)
    return part


class Sampling:
    """Where the voxels of one canvas lie.

    `box` slices the part of the array that can hold a head, `axes` are the positions in mm along each axis of that box,
    and `voxel` is the longest edge of a voxel in mm of the canvas.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        box: list[slice] = []
        self.axes: list[Field] = []
        for size, extent, half in zip(shape, CANVAS, HEAD, strict=True):
            position = ((np.arange(size) + 0.5) / size - 0.5) * extent
            (inside,) = np.nonzero(np.abs(position) <= half)
            box.append(slice(int(inside[0]), int(inside[-1]) + 1))
            self.axes.append(position[inside].astype(np.float32))
        self.box = tuple(box)
        self.voxel = max(extent / size for size, extent in zip(shape, CANVAS, strict=True))

    def noise(self, rng: np.random.Generator, spacing: float) -> Field:
        """A smooth random field over the box, mean 0 and variance about 1, that varies over about `spacing` mm.

        White noise on a lattice of that spacing, interpolated by cubic B-splines one axis after the other. The lattice
        does not depend on the shape, and the order of additions not on threads, as a matrix product's would.
        """
        field: Field = rng.standard_normal([int(2 * half / spacing) + 4 for half in HEAD], np.float32)
        for axis in (2, 1, 0):  # the last is the largest, and its slices are contiguous
            place = (self.axes[axis] + HEAD[axis]) / spacing
            cell = place.astype(np.intp)
            column = [-1 if i == axis else 1 for i in range(3)]
            weights = _spline_weights(place - cell.astype(np.float32))
            taps = [field.take(cell + tap, axis) * weight.reshape(column) for tap, weight in enumerate(weights)]
            field = reduce(np.add, taps)
        field /= 0.48**1.5  # along an axis the squared weights add up to 0.48 on average
        return field


def _spline_weights(t: Field) -> list[Field]:
    """The four uniform cubic B-spline weights at the fraction `t` of a cell."""
    s = 1 - t
    return [s**3 / 6, (3 * t**3 - 6 * t**2 + 4) / 6, (3 * s**3 - 6 * s**2 + 4) / 6, t**3 / 6]


@dataclass(frozen=True)
class Brain:
    """Distances in mm at the N brain voxels of a canvas, in the order of `mask`, X Y Z over the box of the sampling.

    `points`, 3 N, are the positions after the head's warp. `depth` counts inwards from the outer surface, `cortex`
    from the outer and the sulcal surface, `fold` both ways from the middle of the nearest sulcus or fissure. The others
    are signed distances to structures.
    """

    mask: NDArray[np.bool_]
    points: Field
    depth: Field
    cortex: Field
    fold: Field
    ventricles: Field
    choroid: Field
    nuclei: Field
    hindbrain: Field


def build_brain(sampling: Sampling, rng: np.random.Generator) -> Brain:
    """A head of random size and proportions, warped as a whole, with random sulci and ventricles."""
    points = _warped_points(sampling, rng)
    cerebrum, cerebellum, stem = _lobes(points)
    depth = -union(cerebrum, cerebellum, stem)
    mask = depth > -1.5
    gyri, folia = (spacing * np.abs(sampling.noise(rng, spacing)[mask]) for spacing in (8.0, 5.5))

    points, depth, stem = points[:, mask], depth[mask], stem[mask]
    cerebrum, cerebellum = cerebrum[mask], cerebellum[mask]
    mirrored = mirror(points)
    # noise divided by its slope is the distance to its zero set; sulci end at a depth
    sulci = 0.8 * np.where(cerebellum < cerebrum, folia, gyri) + np.maximum(depth - 14, 0)
    fold = union(sulci, _fissure(mirrored))
    smooth = stem < union(cerebrum, cerebellum) - 2
    swell = rng.uniform(0.5, 1.7)
    return Brain(
        mask=mask,
        points=points,
        depth=depth,
        cortex=np.where(smooth, depth + 4, union(depth, fold)),
        fold=fold,
        ventricles=_ventricles(mirrored, swell),
        choroid=capsule(mirrored, (14, 18, 19), (25, 32, 8), 1.6 + swell),
        nuclei=_nuclei(mirrored),
        hindbrain=union(cerebellum, stem),
    )


def _warped_points(sampling: Sampling, rng: np.random.Generator) -> Field:
    """Positions, 3 X Y Z over the box, in a head of standard form."""
    standard = np.stack(np.meshgrid(*sampling.axes, indexing="ij"))
    standard -= _beside(standard, rng.uniform(-3, 3, 3))
    standard /= _beside(standard, rng.uniform(0.94, 1.04, 3))
    standard += np.stack([2.5 * sampling.noise(rng, 42.0) for _ in range(3)])
    standard[0] *= 1 - 0.0012 * standard[1]  # narrower in front
    return standard


def _lobes(points: Field) -> tuple[Field, Field, Field]:
    """Cerebrum with temporal lobes, cerebellum, brain stem."""
    mirrored = mirror(points)
    flattened = np.stack([points[0], points[1], np.where(points[2] < 5, 1.5 * points[2] - 2.5, points[2])])
    cerebrum = ellipsoid(flattened, (0, 0, 5), (68, 86, 62))
    temporal = ellipsoid(mirrored, (42, -6, -23), (23, 42, 20))
    cerebellum = ellipsoid(mirrored, (20, 42, -38), (33, 31, 23))
    return union(cerebrum, temporal), cerebellum, capsule(points, (0, 12, -15), (0, 22, -53), 12)


def _fissure(mirrored: Field) -> Field:
    """Distance to the cleft between the hemispheres, interrupted by the corpus callosum and what lies below it."""
    bridge = ellipsoid(mirrored, (0, 4, 4), (400, 44, 26))
    distance: Field = mirrored[0] + np.maximum(-bridge, 0)
    return distance


def _ventricles(mirrored: Field, swell: float) -> Field:
    """Lateral ventricles with their horns, third and fourth ventricle; `swell` is their width, normal 1."""
    wide = 3 * swell + 1.5
    front, body = (6 + wide / 2, -30, 6), (7 + wide / 2, -8, 17)
    bend, atrium = (14, 18, 19), (26, 34, 6)
    return union(
        capsule(mirrored, front, body, wide),
        capsule(mirrored, body, bend, 0.9 * wide),
        capsule(mirrored, bend, atrium, wide),
        capsule(mirrored, atrium, (22, 56, 4), 0.5 * wide),
        capsule(mirrored, (28, 28, 0), (34, -2, -20), 0.35 * wide),
        ellipsoid(mirrored, (0, 4, -4), (1 + swell, 14, 10)),
        ellipsoid(mirrored, (0, 31, -42), (5 + swell, 4, 8)),
    )


def _nuclei(mirrored: Field) -> Field:
    """Thalamus, caudate head and putamen."""
    return union(
        ellipsoid(mirrored, (11, 8, 3), (8, 14, 9)),
        ellipsoid(mirrored, (15, -22, 6), (5, 11, 9)),
        ellipsoid(mirrored, (27, -6, 2), (6, 17, 11)),
    )
