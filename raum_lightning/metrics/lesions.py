"""Lesion-wise Dice and HD95 as in BraTS 2023, where a small lesion counts as much as a large one.

Reference code: github.com/rachitsaluja/BraTS-2023-Metrics, `eval.py`, with the settings of the adult glioma challenge.
As it is done there:

1. The reference is dilated three times with the 18 neighbours of a voxel. What hangs together then (26 neighbours) is
   one lesion; its voxels are those of the reference itself.
2. The prediction's components (26 neighbours) that touch a dilated lesion are, whole, that lesion's prediction. One
   component may belong to several lesions.
3. Each lesion has a Dice and a HD95 against its prediction; without a prediction (missed) 0 and 374 mm.
4. Lesions of at most 50 mm³ (voxels, in BraTS) do not count; predictions that touch them are not held against anyone.
5. A component that touches no dilated lesion, however small, is a false positive: Dice 0, HD95 374 mm.
6. The score is the mean over counted lesions and false positives; 1 and 0 mm where there are neither, even though
   lesions too small to count were missed.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from raum_lightning.geometry import bounding_box
from raum_lightning.metrics.surface import Mask, hd95

DILATIONS = 3
SMALLEST_MM3 = 50.0
MISSED_MM = 374.0

_EIGHTEEN = ndimage.generate_binary_structure(3, 2)
_TWENTY_SIX = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True)
class MatchedLesions:
    """The lesions of a case that count, each with the prediction for it, and the number of false positives.

    Masks are X Y Z, cropped around lesion and prediction, prediction first; voxels are `spacing` mm.
    """

    pairs: tuple[tuple[Mask, Mask], ...]
    false_positives: int
    spacing: tuple[float, float, float]

    def dice(self) -> float:
        """Lesion-wise Dice."""
        scores = (2 * (guess & truth).sum() / (guess.sum() + truth.sum()) for guess, truth in self.pairs)
        return self._mean(sum(scores), empty=1.0)

    def hd95(self) -> float:
        """Lesion-wise HD95 in mm."""
        scores = (hd95(guess, truth, self.spacing, missed=MISSED_MM) for guess, truth in self.pairs)
        return self._mean(sum(scores) + MISSED_MM * self.false_positives, empty=0.0)

    def _mean(self, total: float, *, empty: float) -> float:
        count = len(self.pairs) + self.false_positives
        return float(total / count) if count else empty


def match_lesions(prediction: Mask, target: Mask, spacing: tuple[float, float, float]) -> MatchedLesions:
    """Pair the lesions of masks X Y Z, with voxels of `spacing` mm, by the rules above."""
    # dilating no farther than this box changes nothing: voxels that meet outside of it also meet inside
    box = bounding_box(prediction | target)
    prediction, target = prediction[box], target[box]
    dilated = ndimage.binary_dilation(target, _EIGHTEEN, iterations=DILATIONS)
    territories, count = ndimage.label(dilated, _TWENTY_SIX)
    components, guesses = ndimage.label(prediction, _TWENTY_SIX)
    touches = np.zeros((count + 1, guesses + 1), bool)
    touches[territories[prediction], components[prediction]] = True
    false_positives = guesses - int(touches[1:].any(axis=0).sum())
    lesions = np.where(target, territories, 0)
    sizes = np.bincount(lesions.flat, minlength=count + 1)[1:] * math.prod(spacing)
    counted = np.flatnonzero(sizes > SMALLEST_MM3) + 1
    pairs = tuple(_crop(touches[lesion][components], lesions == lesion) for lesion in counted)
    return MatchedLesions(pairs, false_positives, spacing)


def _crop(prediction: Mask, target: Mask) -> tuple[Mask, Mask]:
    box = bounding_box(prediction | target)
    return prediction[box], target[box]
