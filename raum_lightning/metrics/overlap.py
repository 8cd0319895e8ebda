"""Overlap of two masks from one table of voxel counts, by the rules of BraTS up to 2022.

The confusion matrix is counted once, on whatever device the masks are, and every region of every metric is a sum over
some of its entries.

A ratio without a denominator is 1 where its mirror image has none either, otherwise 0:

| reference | prediction | Dice | precision | recall |
|-----------|------------|------|-----------|--------|
| empty     | empty      | 1    | 1         | 1      |
| empty     | not empty  | 0    | 0         | 0      |
| not empty | empty      | 0    | 0         | 0      |
"""

from typing import NamedTuple

import torch

from raum_lightning.labels import CLASSES


class Overlap(NamedTuple):
    """Voxels of a prediction that are truly or falsely in (positive) or outside (negative) a region."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN), which is also the F1 score."""
        return _ratio(2 * self.tp, self.fp + self.fn, 0)

    @property
    def precision(self) -> float:
        """TP / (TP + FP)."""
        return _ratio(self.tp, self.fp, self.fn)

    @property
    def recall(self) -> float:
        """TP / (TP + FN), also called sensitivity."""
        return _ratio(self.tp, self.fn, self.fp)

    @property
    def specificity(self) -> float:
        """TN / (TN + FP) over the whole grid, air included: close to 1 for any small region."""
        return _ratio(self.tn, self.fp, self.fn)


def _ratio(hits: int, errors: int, other_errors: int) -> float:
    if hits + errors:
        return hits / (hits + errors)
    return 0.0 if other_errors else 1.0


def confusion(prediction: torch.Tensor, target: torch.Tensor) -> list[list[int]]:
    """Return the voxels per pair of class indices: rows are the target's classes, columns the prediction's.

    Both are class indices of any one shape, on one device; only the counts leave it.
    """
    # adult glioma at least: a table always has its rows
    classes = max(len(CLASSES), 1 + max(int(labels.max()) if labels.numel() else 0 for labels in (prediction, target)))
    dtype = torch.uint8 if classes**2 <= 256 else torch.int32
    pairs = target.to(dtype) * classes + prediction.to(dtype)
    counts = torch.bincount(pairs.flatten(), minlength=classes**2)
    rows: list[list[int]] = counts.view(classes, classes).tolist()
    return rows


def overlap(table: list[list[int]], classes: tuple[int, ...]) -> Overlap:
    """Return the counts of the region made of `classes`, from a table of `confusion`."""
    counts = [[0, 0], [0, 0]]
    for truth, row in enumerate(table):
        for guess, voxels in enumerate(row):
            counts[truth in classes][guess in classes] += voxels
    (tn, fp), (fn, tp) = counts
    return Overlap(tp, fp, fn, tn)
