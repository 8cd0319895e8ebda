"""Scores of a segmentation by name, for one case and as the mean over the cases of a run.

| name          | meaning                                          | rule                                              |
|---------------|--------------------------------------------------|---------------------------------------------------|
| `dice`        | F1 score                                         | both empty 1, exactly one empty 0                 |
| `precision`   |                                                  | both empty 1, exactly one empty 0                 |
| `recall`      | sensitivity                                      | both empty 1, exactly one empty 0                 |
| `specificity` | over the whole grid                              |                                                   |
| `hd95`        | robust Hausdorff distance, mm                    | both empty 0, exactly one empty 373.12866         |
| `volume`      | of the prediction, ml                            |                                                   |
| `lesion_dice` | mean over lesions and false positives            | none of either 1; missed and false ones 0         |
| `lesion_hd95` | mean over lesions and false positives, mm        | none of either 0; missed and false ones 374       |

`dice` to `hd95` follow BraTS up to 2022, the lesion-wise ones BraTS 2023: see `overlap`, `surface` and `lesions`.
"""

import json
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics import Metric
from torchmetrics.utilities.distributed import gather_all_tensors

from raum_lightning.errors import ConfigError
from raum_lightning.geometry import bounding_box
from raum_lightning.labels import CLASSES, REGIONS, in_classes
from raum_lightning.metrics.lesions import MISSED_MM as MISSED_LESION_MM
from raum_lightning.metrics.lesions import SMALLEST_MM3, MatchedLesions, match_lesions
from raum_lightning.metrics.overlap import Overlap, confusion, overlap
from raum_lightning.metrics.surface import MISSED_MM, Mask, hd95

Spacing = tuple[float, float, float]


class _Case:
    """Prediction and target of a case; what several regions share is made once, and only when asked for."""

    def __init__(self, prediction: torch.Tensor, target: torch.Tensor, spacing: Spacing) -> None:
        self.prediction, self.target, self.spacing = prediction, target, spacing

    @cached_property
    def confusion(self) -> list[list[int]]:
        return confusion(self.prediction, self.target)

    @cached_property
    def labels(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Prediction and target on the host, cropped to what either holds."""
        prediction, target = (labels.to(torch.uint8).cpu().numpy() for labels in (self.prediction, self.target))
        box = bounding_box(prediction | target)
        return prediction[box], target[box]


class _Region:
    """One region of a case, as the metrics see it."""

    def __init__(self, case: _Case, classes: tuple[int, ...]) -> None:
        self.case, self.classes, self.spacing = case, classes, case.spacing

    @cached_property
    def overlap(self) -> Overlap:
        return overlap(self.case.confusion, self.classes)

    @cached_property
    def masks(self) -> tuple[Mask, Mask]:
        prediction, target = self.case.labels
        return in_classes(prediction, self.classes), in_classes(target, self.classes)

    @cached_property
    def lesions(self) -> MatchedLesions:
        return match_lesions(*self.masks, self.spacing)

    @property
    def volume(self) -> float:
        return (self.overlap.tp + self.overlap.fp) * math.prod(self.spacing) / 1000


METRICS: dict[str, Callable[[_Region], float]] = {
    "dice": lambda region: region.overlap.dice,
    "precision": lambda region: region.overlap.precision,
    "recall": lambda region: region.overlap.recall,
    "specificity": lambda region: region.overlap.specificity,
    "hd95": lambda region: hd95(*region.masks, region.spacing),
    "volume": lambda region: region.volume,
    "lesion_dice": lambda region: region.lesions.dice(),
    "lesion_hd95": lambda region: region.lesions.hd95(),
}

# what stands beneath a printed table
_OVERLAP = "1 where reference and prediction are both empty, 0 where exactly one is"
RULES = {
    "dice": _OVERLAP,
    "precision": _OVERLAP,
    "recall": _OVERLAP,
    "specificity": "over the whole grid",
    "hd95": f"robust Hausdorff distance in mm, 0 where both are empty, {MISSED_MM:.5f} where exactly one is",
    "volume": "of the prediction, in ml",
    "lesion_dice": f"mean over lesions above {SMALLEST_MM3:g} mm³, 0 if missed, and false positives, 0 each; "
    "1 where there are none",
    "lesion_hd95": f"mean over the same in mm, {MISSED_LESION_MM:g} if missed or false; 0 where there are none",
}


def score(
    prediction: torch.Tensor,
    target: torch.Tensor,
    *,
    metrics: Sequence[str],
    spacing: Sequence[float],
    classes: Sequence[str] = (),
) -> dict[str, float]:
    """Scores of one case, as `{"dice_wt": ..., "dice_tc": ..., "dice_et": ..., "dice_mean": ..., ...}`.

    `prediction` and `target` are class indices, X Y Z, on one device, with voxels of `spacing` mm. Each of `metrics` is
    given for the regions WT, TC and ET, for their mean, and for each of the single `classes` (such as "NCR").
    Raises ValueError for names that do not exist and for masks of different shapes.
    """
    check_names(metrics, classes)
    if prediction.shape != target.shape:
        raise ConfigError(
            f"prediction and target must lie on the same grid, but have {tuple(prediction.shape)} "
            f"and {tuple(target.shape)} voxels"
        )
    x, y, z = (float(size) for size in spacing)
    case = _Case(prediction, target, (x, y, z))
    regions = {name: _Region(case, members) for name, members in REGIONS.items()}
    single = {name: _Region(case, (CLASSES.index(name),)) for name in classes}
    scores: dict[str, float] = {}
    for metric in metrics:
        measure = METRICS[metric]
        nested = {f"{metric}_{name.lower()}": measure(region) for name, region in regions.items()}
        scores |= nested | {f"{metric}_mean": fmean(nested.values())}
        scores |= {f"{metric}_{name.lower()}": measure(region) for name, region in single.items()}
    return scores


def check_names(metrics: Sequence[str], classes: Sequence[str]) -> None:
    """Raises `ValueError` for names that `score` does not know."""
    for kind, names, known in (("metric", metrics, tuple(METRICS)), ("class", classes, CLASSES[1:])):
        if unknown := [name for name in names if name not in known]:
            raise ConfigError(f"{kind} {unknown[0]!r} does not exist; choose from {', '.join(known)}")


def _gather(lines: torch.Tensor, group: Any = None) -> list[torch.Tensor]:
    """What each rank holds; torchmetrics makes an empty tensor of floats for a rank that has had no case."""
    return gather_all_tensors(lines.to(torch.uint8), group)


class SegmentationMetrics(Metric):
    """Mean of `score` over cases, across ranks, each case counted once by its id.

    The state is text, one line of JSON per case, in bytes: ids and numbers travel together, ranks may differ in
    length or have nothing, no precision setting rounds it, and the duplicates with which DDP fills up the last batch
    are recognised.
    """

    is_differentiable = False
    full_state_update = False

    lines: list[torch.Tensor] | torch.Tensor

    def __init__(
        self, metrics: Sequence[str] = ("dice", "precision", "recall"), *, classes: Sequence[str] = ()
    ) -> None:
        super().__init__(dist_sync_fn=_gather)
        check_names(metrics, classes)
        self.metrics, self.classes = tuple(metrics), tuple(classes)
        self.add_state("lines", default=[], dist_reduce_fx="cat")

    def update(
        self,
        prediction: torch.Tensor,
        target: torch.Tensor,
        *,
        case: str,
        spacing: Sequence[float] = (1.0, 1.0, 1.0),
        **more: float,
    ) -> None:
        """Score one case: class indices X Y Z, with voxels of `spacing` mm; `more` are values to average beside."""
        scores = score(prediction, target, metrics=self.metrics, spacing=spacing, classes=self.classes) | more
        line = bytearray(json.dumps([case, scores]) + "\n", "ascii")
        assert isinstance(self.lines, list)
        self.lines.append(torch.frombuffer(line, dtype=torch.uint8).to(self.device))

    def compute(self) -> dict[str, float]:
        """Means over the cases of all ranks, named as in `score`; nothing where there was no case."""
        rows = list(self._rows().values())
        return {key: fmean(row[key] for row in rows) for key in (rows[0] if rows else ())}

    def per_case(self) -> dict[str, dict[str, float]]:
        """The scores of every case of all ranks, by id, in order of ids; every rank must call it."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            return dict(sorted(self._rows().items()))

    def _rows(self) -> dict[str, dict[str, float]]:
        parts = self.lines if isinstance(self.lines, list) else [self.lines]
        text = b"".join(part.cpu().numpy().tobytes() for part in parts)
        return dict(json.loads(line) for line in text.splitlines())
