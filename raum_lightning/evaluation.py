"""Two folders of masks, predictions and references, to scores per case.

Files are matched by the id of their case: `<id>.nii.gz`, `<id>_seg.nii.gz` or `<id>-seg.nii.gz`, whatever the folders.
Whose label values a mask holds must be known before it is read, since editions use the same numbers for different
things (see `labels`). In this order it follows from

1. what was declared,
2. what `raum` noted in the header of a file that it wrote,
3. the name: BraTS20_* and BraTS2021_* are of 2020 and 2021, BraTS-GLI-* of 2023; dataset.json is MSD Task01's,
4. the ending: `_seg` is of 2020, `-seg` of 2023,
5. for a prediction, its reference.

A value that the edition found in this way does not define is an error, never a guess. BraTS 2024 must be declared.
"""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch

from raum_lightning.cases import Volume, find_cases, read_nifti, read_remark, stem
from raum_lightning.frame import voxel_size
from raum_lightning.labels import EDITIONS, Edition
from raum_lightning.metrics import METRICS, score
from raum_lightning.metrics.lesions import MISSED_MM as MISSED_LESION_MM
from raum_lightning.metrics.lesions import SMALLEST_MM3
from raum_lightning.metrics.surface import MISSED_MM

_OVERLAP = "1 where reference and prediction are both empty, 0 where exactly one is"
RULES = {
    "dice": _OVERLAP,
    "precision": _OVERLAP,
    "recall": _OVERLAP,
    "specificity": "over the whole grid",
    "hd95": f"robust Hausdorff distance in mm, 0 where both are empty, {MISSED_MM:.5f} where exactly one is",
    "volume": "of the prediction, in ml",
    "lesion_dice": f"mean over lesions above {SMALLEST_MM3:g} mm³ and false positives (0 each, as are missed lesions); "
    "1 where there are none",
    "lesion_hd95": f"mean over the same in mm, {MISSED_LESION_MM:g} each for missed and false ones; 0 where there are none",
}
LOWER_IS_BETTER = ("hd95", "lesion_hd95")

Scores = dict[str, dict[str, float]]


class EvaluationError(ValueError):
    """Two folders that cannot be compared; the message says what is missing."""


@dataclass(frozen=True)
class Mask:
    """A file with a mask; whose label values it holds, where that is known, and how."""

    path: Path
    edition: Edition | None = None
    known_by: str = ""

    def or_as(self, other: "Mask") -> "Mask":
        """With the edition of `other` where its own is not known."""
        if self.edition is not None or other.edition is None:
            return self
        # 4 of BraTS 2024 was declared for the other: here it may mean what it did in 2020
        edition = EDITIONS["brats2023"] if other.edition.name == "brats2024" else other.edition
        return replace(self, edition=edition, known_by="as its reference")


@dataclass(frozen=True)
class Evaluation:
    """Scores by case and by the names of `metrics.score`; what could not be scored, by case; and what has no partner.

    `editions` counts the masks of each side by the edition they were read as and how it was known.
    """

    metrics: tuple[str, ...]
    scores: Scores
    problems: dict[str, str]
    without_prediction: list[str]
    without_reference: list[str]
    editions: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def summary(self) -> Scores:
        """Mean and median over the scored cases, by name of the score."""
        names = next(iter(self.scores.values()), {})
        columns = {name: [row[name] for row in self.scores.values()] for name in names}
        return {name: {"mean": fmean(values), "median": median(values)} for name, values in columns.items()}

    def worst(self, count: int) -> list[str]:
        """Ids of the cases that score worst in the mean of the first metric, the worst first."""
        name = f"{self.metrics[0]}_mean"
        order = sorted(self.scores, key=lambda case: self.scores[case][name])
        return (order[::-1] if self.metrics[0] in LOWER_IS_BETTER else order)[:count]

    def save(self, path: Path) -> None:
        """Writes everything to `path`, JSON, and the scores of the cases beside it as CSV."""
        content = {
            "rules": {metric: RULES[metric] for metric in self.metrics},
            "summary": self.summary,
            "cases": self.scores,
            "problems": self.problems,
            "without_prediction": self.without_prediction,
            "without_reference": self.without_reference,
            "editions": self.editions,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n")
        with path.with_suffix(".csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["case", *self.summary])
            writer.writeheader()
            writer.writerows({"case": case, **row} for case, row in self.scores.items())


def evaluate(
    predictions: Path,
    references: Path,
    *,
    metrics: Sequence[str] = ("dice", "hd95"),
    classes: Sequence[str] = (),
    edition_predictions: str = "auto",
    edition_references: str = "auto",
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Scores the cases that both folders hold, several at a time, each read only while it is scored.

    `metrics` and `classes` are those of `metrics.score`. `workers` is the number of processes, at most one for each core
    and four cases where not given; `progress` is told (done, of). Raises `EvaluationError` where nothing can be compared.
    """
    _check_metrics(metrics)
    found = find_masks(predictions, edition_predictions)
    expected = find_references(references, edition_references)
    common = [case for case in expected if case in found]
    if not common:
        raise EvaluationError(
            f"no id of {predictions} ({', '.join([*found][:3])}, ...) is among those of {references} "
            f"({', '.join([*expected][:3])}, ...)"
        )
    pairs = [_matched(found[case], expected[case]) for case in common]
    editions = {
        side: dict(Counter(f"{_name(mask)} ({mask.known_by})" for mask in masks))
        for side, masks in zip(("predictions", "references"), zip(*pairs, strict=True), strict=True)
    }
    workers = workers or min(len(os.sched_getaffinity(0)), -(-len(pairs) // 4))
    outcomes: dict[str, dict[str, float] | str] = {}
    with _mapping(workers) as mapped:
        for case, outcome in zip(common, mapped(partial(score_pair, metrics=metrics, classes=classes), pairs)):
            outcomes[case] = outcome
            if progress:
                progress(len(outcomes), len(pairs))
    return Evaluation(
        tuple(metrics),
        {case: outcome for case, outcome in outcomes.items() if isinstance(outcome, dict)},
        {case: outcome for case, outcome in outcomes.items() if isinstance(outcome, str)},
        [case for case in expected if case not in found],
        [case for case in found if case not in expected],
        editions,
    )
