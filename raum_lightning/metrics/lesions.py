"""Lesions of two masks, matched by the rules of a year, so that a small lesion counts as much as a large one.

By reach (BraTS 2023 and 2024):

1. The reference is dilated with the 18 neighbours of a voxel. What hangs together then (26 neighbours) is one lesion;
   its voxels are those of the reference itself. In 2024 lesions of one tissue that touch the same lesion of another
   tissue are one as well.
2. The prediction's components (26 neighbours; in 2024 joined in the same way, the small ones dropped) that touch a
   dilated lesion are, whole, that lesion's prediction. One component may belong to several lesions.
3. Small lesions do not count; predictions that touch them are not held against anyone.
4. A component that touches no dilated lesion is a false positive.

One to one (BraTS 2025 on): the components of both masks (26 neighbours) are paired so that the sum of their Dice is
largest; what shares no voxel with its partner stays alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean, pstdev
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from raum_lightning.geometry import Box, bounding_box
from raum_lightning.metrics.rules import Rules
from raum_lightning.metrics.surface import Distances, Mask, Memo, Spacing, border_distances, element_distances

Labels = NDArray[np.int32]

# the least Dice of a pair, and what two components that are no pair cost
LEAST_DICE = 1e-6

_EIGHTEEN = ndimage.generate_binary_structure(3, 2)
_TWENTY_SIX = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True)
class MaskPair:
    """A prediction and its target, masks X Y Z cropped to what either holds, with voxels of `spacing` mm."""

    prediction: Mask
    target: Mask
    spacing: Spacing
    memo: Memo | None = None

    @cached_property
    def elements(self) -> Distances:
        """Distances between the surface elements; neither mask may be empty."""
        return element_distances(self.prediction, self.target, self.spacing, self.memo)

    @cached_property
    def borders(self) -> Distances:
        """Distances between the border voxels; neither mask may be empty."""
        return border_distances(self.prediction, self.target, self.spacing, self.memo)

    @cached_property
    def dice(self) -> float:
        """Dice; one of the masks must not be empty."""
        sizes = np.count_nonzero(self.prediction) + np.count_nonzero(self.target)
        return float(2 * np.count_nonzero(self.prediction & self.target) / sizes)

    @property
    def target_mm3(self) -> float:
        """Volume of the target in mm³."""
        return float(np.count_nonzero(self.target) * np.prod(self.spacing))

    def hd95(self, rules: Rules) -> float:
        """HD95 in mm, between border voxels or surface elements as the rules say."""
        return self.hd95_of_borders if rules.border_voxels else self.hd95_of_elements

    @cached_property
    def hd95_of_borders(self) -> float:
        """HD95 in mm between border voxels."""
        return self.borders.hd95_pooled()

    @cached_property
    def hd95_of_elements(self) -> float:
        """HD95 in mm between surface elements."""
        return self.elements.hd95_of_elements()


class Counts(NamedTuple):
    """Lesions that were found, false positives, and lesions that were missed."""

    tp: int
    fp: int
    fn: int

    def ratio(self, hits: int, errors: int) -> float:
        """Return hits among hits and errors, NaN where there are neither."""
        return hits / (hits + errors) if hits + errors else float("nan")

    @property
    def precision(self) -> float:
        """TP / (TP + FP)."""
        return self.ratio(self.tp, self.fp)

    @property
    def recall(self) -> float:
        """TP / (TP + FN)."""
        return self.ratio(self.tp, self.fn)

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN)."""
        return self.ratio(2 * self.tp, self.fp + self.fn)


@dataclass(frozen=True)
class Lesions:
    """The lesions of a region that count.

    Args:
        found: Lesions with the prediction for each, cropped around both.
        missed_mm3: Volumes of lesions without a prediction.
        false_mm3: Volumes of predicted components that belong to no lesion.
        rules: By which they were matched.
    """

    found: tuple[MaskPair, ...]
    missed_mm3: tuple[float, ...]
    false_mm3: tuple[float, ...]
    rules: Rules

    def counts(self, low: float = 0, high: float = float("inf")) -> Counts:
        """Return how many lesions of `low` to `high` mm³ there are of each kind, `high` not included."""
        sizes = ([pair.target_mm3 for pair in self.found], self.false_mm3, self.missed_mm3)
        return Counts(*(sum(low <= size < high for size in kind) for kind in sizes))

    def mean(self, measure: Callable[[MaskPair], float], *, missed: float, unmatched: float, absent: float) -> float:
        """Return the mean of a measure over the lesions that the rules name.

        `missed` is what a missed or false lesion has where such count, `unmatched` the mean where there are lesions but
        no pair of them, `absent` where there are none.
        """
        values = self._values(measure, missed)
        if values:
            return fmean(values)
        return unmatched if self.missed_mm3 or self.false_mm3 else absent

    def deviation(self, measure: Callable[[MaskPair], float], *, missed: float) -> float:
        """Return the standard deviation of what `mean` is the mean of, NaN where there is nothing."""
        values = self._values(measure, missed)
        return pstdev(values) if values else float("nan")

    def _values(self, measure: Callable[[MaskPair], float], missed: float) -> list[float]:
        values = [measure(pair) for pair in self.found]
        if not self.rules.one_to_one:
            values += [missed] * (len(self.missed_mm3) + len(self.false_mm3))
        return values


@dataclass(frozen=True)
class Components:
    """Labels 1, 2, ... of a mask's components or lesions X Y Z, those of the voxels within their reach, and how many.

    They are numbered as their first voxels come in the array.
    """

    labels: Labels
    reach: Labels
    count: int

    def boxes(self) -> list[Box]:
        """Return the smallest box around each; of a component that was dropped there is none."""
        boxes: list[Box] = ndimage.find_objects(self.labels, self.count) if self.count else []
        return boxes


def find_components(mask: Mask, reach: int = 0) -> Components:
    """Return the components (26 neighbours) of a mask X Y Z, those that meet after `reach` dilations being one."""
    if not reach:
        labels, count = ndimage.label(mask, _TWENTY_SIX)
        return Components(labels, labels, count)
    grown = np.zeros(mask.shape, np.int32)
    box = _widened(bounding_box(mask), reach)
    # dilating no farther than the array changes nothing: voxels that meet outside of it also meet inside
    dilated = ndimage.binary_dilation(mask[box], _EIGHTEEN, iterations=reach)
    grown[box], count = ndimage.label(dilated, _TWENTY_SIX)
    return Components(np.where(mask, grown, 0), grown, count)


def without_small(components: Components, voxels: float) -> Components:
    """Return components without those of at most so many voxels; the others keep their numbers."""
    keep = np.bincount(components.labels.ravel(), minlength=components.count + 1) > voxels
    return replace(components, labels=np.where(keep[components.labels], components.labels, 0))


def join_by_touch(components: Components, others: Sequence[Components]) -> Components:
    """Return components of which those are one that touch (18 neighbours) the same component of one of `others`.

    The others are taken one after the other; of several that a component touches, the one with the lowest number
    counts, as in the organisers' script.
    """
    group = np.arange(components.count + 1)
    for other in others:
        first: dict[int, int] = {}
        for own, touched in sorted(_touching(components.labels, other.labels)):
            number = int(group[own])
            first[number] = min(touched, first.get(number, touched))
        leader: dict[int, int] = {}
        for number in sorted(first):
            leader.setdefault(first[number], number)
        group = np.array([leader[first[number]] if number in first else number for number in group.tolist()])
    _, compact = np.unique(group, return_inverse=True)
    numbers = compact.astype(np.int32)
    return Components(numbers[components.labels], numbers[components.reach], int(numbers.max()))


def _touching(one: Labels, other: Labels) -> set[tuple[int, int]]:
    """The pairs of labels, neither 0, that two arrays have in neighbouring voxels (18 neighbours)."""
    pairs: set[tuple[int, int]] = set()
    for offset in np.argwhere(_EIGHTEEN) - 1:
        here = tuple(slice(max(0, -step), size - max(0, step)) for step, size in zip(offset, one.shape, strict=True))
        there = tuple(slice(max(0, step), size - max(0, -step)) for step, size in zip(offset, one.shape, strict=True))
        both = (one[here] > 0) & (other[there] > 0)
        codes = np.unique(one[here][both].astype(np.int64) << 32 | other[there][both])
        pairs |= {(int(code >> 32), int(code & 0xFFFFFFFF)) for code in codes}
    return pairs


def match_by_reach(
    prediction: Components,
    target: Components,
    spacing: Spacing,
    small_mm3: float,
    rules: Rules,
    memo: Memo | None = None,
) -> Lesions:
    """Return the lesions of a target, each with the predicted components that touch its reach."""
    voxel = float(np.prod(spacing))
    touches: Mask = np.zeros((target.count + 1, prediction.count + 1), bool)
    inside = prediction.labels > 0
    touches[target.reach[inside], prediction.labels[inside]] = True
    sizes = np.bincount(target.labels.ravel(), minlength=target.count + 1) * voxel
    guesses = np.bincount(prediction.labels.ravel(), minlength=prediction.count + 1)[1:] * voxel
    # numbers of components that were dropped have no voxels
    alone = np.logical_not(touches[1:, 1:].any(axis=0)) & (guesses > 0)
    targets, predictions = target.boxes(), prediction.boxes()
    found, missed = [], []
    for lesion in np.flatnonzero(sizes[1:] > small_mm3) + 1:
        partners = np.flatnonzero(touches[lesion, 1:])
        if not len(partners):
            missed.append(float(sizes[lesion]))
            continue
        box = _around([targets[lesion - 1], *(predictions[partner] for partner in partners)])
        guess: Mask = touches[lesion].take(prediction.labels[box])
        found.append(MaskPair(guess, target.labels[box] == lesion, spacing, memo))
    return Lesions(tuple(found), tuple(missed), tuple(guesses[alone].tolist()), rules)


def match_one_to_one(prediction: Components, target: Components, spacing: Spacing, rules: Rules) -> Lesions:
    """Return the components of a target, each with the predicted one that makes the sum of Dice largest."""
    voxel = float(np.prod(spacing))
    guesses = np.bincount(prediction.labels.ravel(), minlength=prediction.count + 1)
    sizes = np.bincount(target.labels.ravel(), minlength=target.count + 1)
    both = (prediction.labels > 0) & (target.labels > 0)
    codes = target.labels[both].astype(np.int64) * (prediction.count + 1) + prediction.labels[both]
    pairs, shared = np.unique(codes, return_counts=True)
    truth, guess = np.divmod(pairs, prediction.count + 1)
    dice = 2 * shared / (sizes[truth] + guesses[guess])
    cost = np.full((target.count, prediction.count), 1 + LEAST_DICE)
    cost[truth - 1, guess - 1] = np.where(dice >= LEAST_DICE, 1 - dice, cost[truth - 1, guess - 1])
    rows, columns = linear_sum_assignment(cost)
    matched = {
        int(row) + 1: int(column) + 1 for row, column in zip(rows, columns, strict=True) if cost[row, column] < 1
    }
    targets, predictions = target.boxes(), prediction.boxes()
    found = []
    for lesion, partner in matched.items():
        box = _around([targets[lesion - 1], predictions[partner - 1]])
        found.append(MaskPair(prediction.labels[box] == partner, target.labels[box] == lesion, spacing))
    missed = [float(sizes[lesion] * voxel) for lesion in range(1, target.count + 1) if lesion not in matched]
    partners = set(matched.values())
    false = [float(guesses[one] * voxel) for one in range(1, prediction.count + 1) if one not in partners]
    return Lesions(tuple(found), tuple(missed), tuple(false), rules)


def _widened(box: Box, voxels: int) -> Box:
    x, y, z = (slice(max(0, side.start - voxels), side.stop + voxels) for side in box)
    return x, y, z


def _around(boxes: Sequence[Box]) -> Box:
    x, y, z = (slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3))
    return x, y, z
