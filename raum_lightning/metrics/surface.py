"""Distances between the surfaces of two masks in mm: HD95, ASSD, and the normalised surface Dice (NSD).

Two definitions of a surface are in use, and their figures are not comparable:

- Surface elements: DeepMind's `surface-distance` (Nikolov et al., arXiv:1809.04430), which BraTS used until 2024 for
  HD95. A surface runs through the corners of the voxels: wherever the eight voxels that meet at a corner are not all
  alike, there is an element whose area is that of the marching-cubes triangles between the eight voxel centres. HD95 is
  the larger of the 95th percentiles of both directions, weighted by area; surface Dice the share of both areas
  together that lies within a tolerance of the other.
- Border voxels: nnU-Net's, medpy's and, from 2025 on, the organisers'. The surface is made of the voxels that have one
  of their six neighbours outside, all of equal weight. HD95 is the 95th percentile of both directions pooled; NSD the
  mean of the two shares of border voxels within a tolerance of the other border; ASSD the mean of the two mean
  distances.
"""

import math
from functools import cache
from itertools import permutations, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from raum_lightning.geometry import bounding_box

Mask = NDArray[np.bool_]
Spacing = tuple[float, float, float]

VOXELS_PER_POINT = 25
"""Voxels of a distance map that cost as much as one far point searched in a tree (measured; both give the same)."""

# Marching cubes knows 13 ways, up to rotation, mirroring and exchange of inside and outside, in which a surface passes
# between eight voxels. The bits of a pattern are the voxels (0,0,0), (0,0,1), ..., (1,1,1); the rows are its triangles:
# the area vector's absolute components, in eighths of a voxel face.
_PATTERNS: dict[int, list[tuple[int, int, int]]] = {
    0b00000001: [(1, 1, 1)],
    0b00000011: [(2, 2, 0)] * 2,
    0b00000110: [(1, 1, 1)] * 2,
    0b00000111: [(1, 1, 1), (2, 2, 2), (4, 0, 0)],
    0b00001111: [(4, 0, 0)] * 2,
    0b00010110: [(1, 1, 1)] * 3,
    0b00010111: [(1, 1, 1), (1, 1, 1), (2, 2, 2), (2, 2, 2)],
    0b00011000: [(1, 1, 1)] * 2,
    0b00011001: [(1, 1, 1), (0, 2, 2), (0, 2, 2)],
    0b00011011: [(1, 1, 1), (0, 2, 2), (2, 0, 2), (3, 3, 3)],
    0b00011110: [(1, 1, 1), (1, 1, 1), (2, 2, 2), (4, 0, 0)],
    0b00111100: [(2, 2, 0)] * 4,
    0b01101001: [(1, 1, 1)] * 4,
}


@cache
def _triangles() -> NDArray[np.float64]:
    """Area vectors of up to four triangles for each of the 256 patterns, 256 4 3, in voxel faces."""
    table = np.zeros((256, 4, 3))
    weights = 2 ** np.arange(8)[::-1].reshape(2, 2, 2)
    for pattern, triangles in _PATTERNS.items():
        voxels = (pattern & weights) > 0
        for axes, steps in product(permutations(range(3)), product((1, -1), repeat=3)):
            turned = voxels.transpose(axes)[tuple(slice(None, None, step) for step in steps)]
            code = int(weights[turned].sum())
            table[[code, 255 - code], : len(triangles)] = np.array(triangles)[:, axes] / 8
    return table


@cache
def surfel_areas(spacing: Spacing) -> NDArray[np.float64]:
    """Area in mm² of the surface between eight voxels, for each of their 256 patterns."""
    x, y, z = spacing
    areas: NDArray[np.float64] = np.linalg.norm(_triangles() * (y * z, x * z, x * y), axis=-1).sum(axis=-1)
    return areas


def neighbour_codes(mask: Mask) -> NDArray[np.uint8]:
    """The pattern of the eight voxels around each voxel corner: X Y Z to X+1 Y+1 Z+1; outside the mask is empty."""
    bits = np.pad(mask, 1).view(np.uint8)
    rows = bits[:, :, :-1] << np.uint8(1) | bits[:, :, 1:]
    planes = rows[:, :-1] << np.uint8(2) | rows[:, 1:]
    codes: NDArray[np.uint8] = planes[:-1] << np.uint8(4) | planes[1:]
    return codes


class Surface(NamedTuple):
    """Where a grid X Y Z, of voxel corners or of voxels, has surface elements, their flat indices, and their areas."""

    border: Mask
    elements: NDArray[np.intp]
    areas: NDArray[np.float64]

    def corners(self) -> NDArray[np.int64]:
        """Positions on the grid, N 3."""
        return np.stack(np.unravel_index(self.elements, self.border.shape), axis=-1)

    def points(self, spacing: Spacing) -> NDArray[np.float64]:
        """Positions in mm, N 3."""
        positions: NDArray[np.float64] = self.corners() * np.array(spacing)
        return positions


def surface(mask: Mask, spacing: Spacing) -> Surface:
    """Return the surface elements of a mask X Y Z, on the X+1 Y+1 Z+1 corners of its voxels; areas in mm²."""
    codes = neighbour_codes(mask)
    border = (codes != 0) & (codes != 255)
    elements = np.flatnonzero(border)
    return Surface(border, elements, surfel_areas(spacing)[codes.reshape(-1)[elements]])


def border(mask: Mask) -> Surface:
    """Return the border voxels of a mask X Y Z, those with one of their six neighbours outside; each has area 1."""
    inner = mask.copy()
    for axis in range(3):
        along, inside = mask.swapaxes(0, axis), inner.swapaxes(0, axis)
        inside[1:] &= along[:-1]
        inside[:-1] &= along[1:]
        inside[[0, -1]] = False
    shell = mask & ~inner
    elements = np.flatnonzero(shell)
    return Surface(shell, elements, np.ones(len(elements)))


class Distances(NamedTuple):
    """Distances in mm from each element of a prediction's surface to the target's, and back, with their areas."""

    prediction: NDArray[np.float64]
    target: NDArray[np.float64]
    prediction_areas: NDArray[np.float64]
    target_areas: NDArray[np.float64]

    def hd95_of_elements(self) -> float:
        """Return the larger of the 95th percentiles of both directions, weighted by area."""
        return max(_percentile(self.prediction, self.prediction_areas), _percentile(self.target, self.target_areas))

    def hd95_pooled(self) -> float:
        """Return the 95th percentile of both directions together, every element alike."""
        return float(np.percentile(np.concatenate([self.target, self.prediction]), 95))

    def assd(self) -> float:
        """Return the mean of the mean distances of both directions."""
        return float(self.prediction.mean() + self.target.mean()) / 2

    def nsd(self, tolerance: float) -> float:
        """Return the mean of the shares of both borders that lie within `tolerance` mm of the other."""
        return float((self.prediction <= tolerance).mean() + (self.target <= tolerance).mean()) / 2

    def surface_dice(self, tolerance: float) -> float:
        """Return the share of both areas together that lies within `tolerance` mm of the other surface."""
        near = self.prediction_areas[self.prediction <= tolerance].sum()
        near += self.target_areas[self.target <= tolerance].sum()
        return float(near / (self.prediction_areas.sum() + self.target_areas.sum()))


class Memo:
    """Distances to the surfaces of one case that were searched before: a prediction that changes costs its changes.

    A surface is known by its shape, wherever it lies in an array.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[NDArray[np.int64], NDArray[np.float64]]] = {}

    def distances(self, own: Surface, other: Surface, spacing: Spacing) -> NDArray[np.float64]:
        """Return the distance in mm from each element to the other surface."""
        corners = other.corners()
        origin = corners.min(axis=0)
        key = (corners - origin).astype(np.int16).tobytes()
        # 21 bits for each axis; elements are in the order of their codes
        x, y, z = (own.corners() - origin + (1 << 20)).T
        codes = x << 42 | y << 21 | z
        known, distances = self._known.get(key, (np.zeros(0, np.int64), np.zeros(0)))
        new = np.isin(codes, known, assume_unique=True, invert=True)
        if new.any():
            found = _distances(Surface(own.border, own.elements[new], own.areas[new]), other, spacing)
            merged = np.concatenate([known, codes[new]])
            order = np.argsort(merged)
            known, distances = merged[order], np.concatenate([distances, found])[order]
            self._known[key] = known, distances
        result: NDArray[np.float64] = distances[np.searchsorted(known, codes)]
        return result


def element_distances(prediction: Mask, target: Mask, spacing: Spacing, memo: Memo | None = None) -> Distances:
    """Return the distances between the surface elements of masks X Y Z, both not empty, with voxels of `spacing` mm."""
    return _both(surface(prediction, spacing), surface(target, spacing), spacing, memo)


def border_distances(prediction: Mask, target: Mask, spacing: Spacing, memo: Memo | None = None) -> Distances:
    """Return the distances between the border voxels of masks X Y Z, both not empty, with voxels of `spacing` mm."""
    return _both(border(prediction), border(target), spacing, memo)


def hd95(prediction: Mask, target: Mask, spacing: Spacing, *, missed: float = math.inf) -> float:
    """Return the HD95 of surface elements between masks X Y Z with voxels of `spacing` mm, in mm.

    0 where both are empty, `missed` where exactly one is.
    """
    found = prediction.any(), target.any()
    if not all(found):
        return missed if any(found) else 0.0
    box = bounding_box(prediction | target)
    return element_distances(prediction[box], target[box], spacing).hd95_of_elements()


def _both(guess: Surface, truth: Surface, spacing: Spacing, memo: Memo | None) -> Distances:
    there = memo.distances(guess, truth, spacing) if memo else _distances(guess, truth, spacing)
    back = _distances(truth, guess, spacing)
    return Distances(there, back, guess.areas, truth.areas)


def _distances(own: Surface, other: Surface, spacing: Spacing) -> NDArray[np.float64]:
    """Distance in mm from each element to the other surface, searched only where the two do not coincide.

    A tree takes microseconds a point, more the farther the surfaces lie apart; a distance map takes its time for every
    voxel of the box. The first suits a stray component across the brain, the second the noise of an untrained network.
    """
    apart = np.flatnonzero(~other.border.reshape(-1)[own.elements])
    if len(apart) * VOXELS_PER_POINT > other.border.size:
        mapped: NDArray[np.float64] = distance_transform_edt(~other.border, sampling=spacing)
        return mapped.reshape(-1)[own.elements]
    distances = np.zeros(len(own.elements))
    tree = cKDTree(other.points(spacing), leafsize=64, balanced_tree=False)
    distances[apart] = tree.query(own.points(spacing)[apart])[0]
    return distances


def _percentile(distances: NDArray[np.float64], areas: NDArray[np.float64]) -> float:
    """The smallest distance within which 95 % of the area lies."""
    order = np.lexsort((areas, distances))
    weights = areas[order]
    index = int(np.searchsorted(np.cumsum(weights) / weights.sum(), 0.95))
    return float(distances[order[index]])
