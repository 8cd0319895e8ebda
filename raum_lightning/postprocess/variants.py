"""One case whose mask is cleaned in many ways, and the scores of each: what comes again is computed once.

Scores are those of `metrics.score`. Those of a region follow from its mask, and under rules that join lesions of other
tissues from theirs; most variants change a region in a way that another one did, or not at all.
"""

import zlib
from collections.abc import Callable, Sequence
from hashlib import blake2b

import numpy as np
import torch

from raum_lightning.datasets import DataSet
from raum_lightning.geometry import bounding_box
from raum_lightning.labels import Thresholds, in_classes
from raum_lightning.metrics.measures import METRICS
from raum_lightning.metrics.region import ScoredCase, ScoredRegion
from raum_lightning.metrics.rules import Members, Rules
from raum_lightning.metrics.statistics import mean
from raum_lightning.metrics.surface import Memo, Spacing
from raum_lightning.postprocess import Labels, Mask, Numbered, Postprocess, clean, components

# of a case, or the means: Dice, HD95 and the third of `figures`
Values = tuple[float, float, float]
# masks whose components are remembered, some 5 MB each
REMEMBERED = 24


def figures(rules: Rules) -> tuple[str, str, str]:
    """Return the rules' Dice and HD95, by lesion where specks count as lesions there, and what decides between equals.

    The third is Dice where the first is by lesion; else it tells of specks, which hardly change the other two.
    """
    if rules.name in ("brats2023", "brats2023-men", "brats2023-met", "brats2024"):
        return "lesion_dice", "lesion_hd95", "dice"
    return "dice", "hd95", "lesion_f1" if rules.one_to_one else "lesion_dice"


class Variants:
    """The `figures` of one case after each of many variants of cleaning; between calls it takes some 3 MB.

    Args:
        prediction: Class indices X Y Z.
        target: Class indices X Y Z on the same grid.
        rules: By which it is scored.
        spacing: Of voxels, in mm.
        dataset: Names the classes and regions.
        decide: Gives the mask for thresholds of probabilities.
    """

    def __init__(
        self,
        prediction: Labels,
        target: Labels,
        rules: Rules,
        *,
        spacing: Spacing,
        dataset: DataSet,
        decide: Callable[[Thresholds], Labels] | None = None,
    ) -> None:
        self.rules, self.spacing, self.regions, self.decide = rules, spacing, dataset.regions, decide
        self._shape = target.shape
        self._target = _packed(target)
        self._masks = {"[]": _packed(prediction)}
        self._means: dict[tuple[str, bytes], Values] = {}
        self._scores: dict[tuple[Members, str, tuple[bytes, ...]], Values] = {}
        self._memo = Memo()

    def scores(self, tried: Sequence[Postprocess]) -> list[Values]:
        """Return the means over the regions after each variant."""
        numbered = _Numbering()
        last, target = None, self._unpacked(self._target)
        found = []
        for steps in tried:
            by = str(sorted(steps.threshold.items()))
            if by != last:
                last, (labels, truth) = by, _cropped(self._mask(by, steps.threshold), target)
            mask = clean(labels, steps, self.spacing, self.regions, numbered)
            whole = by, _digest(mask)
            if whole not in self._means:
                self._means[whole] = self._score(mask, truth, by)
            found.append(self._means[whole])
        return found

    def _mask(self, by: str, thresholds: Thresholds) -> Labels:
        if by not in self._masks:
            assert self.decide is not None
            self._masks[by] = _packed(self.decide(thresholds))
        return self._unpacked(self._masks[by])

    def _score(self, mask: Labels, truth: Labels, by: str) -> Values:
        prediction, target = torch.from_numpy(mask), torch.from_numpy(truth)
        case = ScoredCase(prediction, target, self.spacing, self.rules, memo=self._memo)
        rows = [self._region(case, members, by) for members in self.regions.values()]
        dice, distance, third = (mean(column) for column in zip(*rows, strict=True))
        return dice, distance, third

    def _region(self, case: ScoredCase, members: Members, by: str) -> Values:
        needed = (members, *self.rules.joins.get(members, ()))
        labels = case.prediction.numpy()
        key = members, by, tuple(_digest(in_classes(labels, one)) for one in needed)
        if key not in self._scores:
            region = ScoredRegion(case, members)
            dice, distance, third = (METRICS[name].of(region) for name in figures(self.rules))
            self._scores[key] = dice, distance, third
        return self._scores[key]

    def _unpacked(self, packed: bytes) -> Labels:
        labels: Labels = np.frombuffer(bytearray(zlib.decompress(packed)), np.uint8).reshape(self._shape)
        return labels


class _Numbering:
    """`components` of the masks of one shape that came last."""

    def __init__(self) -> None:
        self._known: dict[bytes, Numbered] = {}

    def __call__(self, mask: Mask) -> Numbered:
        key = _digest(mask)
        found = self._known.pop(key, None) or components(mask)
        self._known[key] = found
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        return found


def _digest(mask: Mask | Labels) -> bytes:
    content = np.packbits(mask) if mask.dtype == bool else np.ascontiguousarray(mask)
    return blake2b(content.tobytes() + str(mask.shape).encode(), digest_size=16).digest()


def _packed(labels: Labels) -> bytes:
    """Return class indices in some 50 kB instead of 9 MB."""
    return zlib.compress(np.ascontiguousarray(labels, np.uint8).tobytes(), 1)


def _cropped(prediction: Labels, target: Labels) -> tuple[Labels, Labels]:
    """Return both in the box that holds all tumour and, around it, a voxel of what is outside."""
    box = bounding_box((prediction > 0) | (target > 0))
    x, y, z = (slice(max(0, side.start - 1), side.stop + 1) for side in box)
    return prediction[x, y, z], target[x, y, z]
