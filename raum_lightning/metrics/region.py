"""A case and its regions as the metrics see them: what several of them need is made once, and only when asked for."""

from collections.abc import Callable
from functools import cached_property
from math import prod
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from raum_lightning.datasets import BACKGROUND, IGNORED
from raum_lightning.geometry import bounding_box
from raum_lightning.labels import in_classes
from raum_lightning.metrics.lesions import (
    Components,
    Lesions,
    MaskPair,
    find_components,
    join_by_touch,
    match_by_reach,
    match_one_to_one,
    without_small,
)
from raum_lightning.metrics.overlap import Overlap, confusion, overlap
from raum_lightning.metrics.rules import Members, Rules
from raum_lightning.metrics.surface import Mask, Memo, Spacing

Side = Literal["prediction", "target"]


class ScoredCase:
    """Prediction and target of a case, class indices X Y Z on one device, with voxels of `spacing` mm.

    `voxels` are those of the whole grid, where both are a crop; those that the target says to ignore do not count.
    `memo` is of other predictions for the same target.
    """

    def __init__(
        self,
        prediction: torch.Tensor,
        target: torch.Tensor,
        spacing: Spacing,
        rules: Rules,
        voxels: int | None = None,
        memo: Memo | None = None,
    ) -> None:
        self.voxels = (target.numel() if voxels is None else voxels) - int((ignored := target == IGNORED).sum())
        if ignored.any():
            prediction, target = prediction.masked_fill(ignored, BACKGROUND), target.masked_fill(ignored, BACKGROUND)
        self.prediction, self.target, self.spacing, self.rules = prediction, target, spacing, rules
        self.memo = memo
        self._lesions: dict[tuple[Side, Members], Components] = {}

    @cached_property
    def confusion(self) -> list[list[int]]:
        """Voxels per pair of classes."""
        return confusion(self.prediction, self.target)

    @cached_property
    def labels(self) -> dict[Side, NDArray[np.uint8]]:
        """Both on the host, cropped to what either holds."""
        prediction, target = (labels.to(torch.uint8).cpu().numpy() for labels in (self.prediction, self.target))
        box = bounding_box(prediction | target)
        return {"prediction": prediction[box], "target": target[box]}

    def mask(self, side: Side, region: Members) -> Mask:
        """A region of one side, on the grid of `labels`."""
        return in_classes(self.labels[side], region)

    def lesions(self, side: Side, region: Members) -> Components:
        """What BraTS 2024 takes for the lesions of a region, before those that touch other tissues are joined."""
        key = side, region
        if key not in self._lesions:
            found = find_components(self.mask(side, region), self.rules.reach_in(region))
            if side == "prediction":
                found = without_small(found, self.rules.small_in(region))
            self._lesions[key] = found
        return self._lesions[key]


class ScoredRegion:
    """One region of a case, made of the classes `members`."""

    def __init__(self, case: ScoredCase, members: Members) -> None:
        self.case, self.members, self.rules, self.spacing = case, members, case.rules, case.spacing

    @cached_property
    def overlap(self) -> Overlap:
        """Voxels by where they are, over the whole grid."""
        if not self.rules.joins_predictions:
            tp, fp, fn, _ = overlap(self.case.confusion, self.members)
        else:
            prediction, target = (self._mask(side) for side in ("prediction", "target"))
            tp, size, expected = (int(np.count_nonzero(mask)) for mask in (prediction & target, prediction, target))
            fp, fn = size - tp, expected - tp
        return Overlap(tp, fp, fn, self.case.voxels - tp - fp - fn)

    def _mask(self, side: Side) -> Mask:
        if side == "prediction" and self.rules.joins_predictions:
            return self.case.lesions(side, self.members).labels > 0
        return self.case.mask(side, self.members)

    @cached_property
    def masks(self) -> MaskPair:
        """Both sides, cropped to what either holds."""
        prediction, target = self._mask("prediction"), self._mask("target")
        box = bounding_box(prediction | target)
        return MaskPair(prediction[box], target[box], self.spacing, self.case.memo)

    @property
    def state(self) -> Literal["absent", "missed", "found"]:
        """Whether neither side has the region, the rules compare the two sides, or one is as good as missing."""
        counts = self.overlap
        prediction, target = counts.tp + counts.fp, counts.tp + counts.fn
        if not prediction and not target:
            return "absent"
        needed = counts.tp if self.rules.one_to_one else min(prediction, target)
        return "found" if needed else "missed"

    def share(self, measure: Callable[["ScoredRegion"], float]) -> float:
        """Return a measure of overlap from 0 to 1, or what the rules give instead."""
        state = self.state
        if state == "found":
            return measure(self)
        return self.rules.absent if state == "absent" else 0.0

    def distance(self, measure: Callable[["ScoredRegion"], float]) -> float:
        """Return a measure in mm, or what the rules give instead."""
        state = self.state
        if state == "found":
            return measure(self)
        return self.rules.absent_mm if state == "absent" else self.rules.missed_mm

    @cached_property
    def lesions(self) -> Lesions:
        """The lesions, matched by the rules."""
        rules, region = self.rules, self.members
        if rules.one_to_one:
            # z y x, the order in which the organisers' code numbers components: it decides between equal pairs
            sides = (np.ascontiguousarray(mask.T) for mask in (self.masks.prediction, self.masks.target))
            prediction, target = (find_components(mask) for mask in sides)
            x, y, z = self.spacing
            return match_one_to_one(prediction, target, (z, y, x), rules)
        small = rules.small_in(region)
        if not rules.joins_predictions:
            target = find_components(self.masks.target, rules.reach_in(region))
            prediction = find_components(self.masks.prediction)
        else:
            prediction, target = self._joined("prediction"), self._joined("target")
        return match_by_reach(prediction, target, self.spacing, small, rules, self.case.memo)

    def _joined(self, side: Side) -> Components:
        others = [self.case.lesions(side, other) for other in self.rules.joins.get(self.members, ())]
        return join_by_touch(self.case.lesions(side, self.members), others)

    @property
    def predicted_ml(self) -> float:
        """Volume of the prediction."""
        return (self.overlap.tp + self.overlap.fp) * prod(self.spacing) / 1000

    @property
    def reference_ml(self) -> float:
        """Volume of the reference."""
        return (self.overlap.tp + self.overlap.fn) * prod(self.spacing) / 1000
