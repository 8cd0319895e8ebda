"""Calibration of probabilities: the expected calibration error, and temperature scaling.

Both are taken over voxels of the brain that are spread evenly over each case, by the fold that has not seen it. The
confidence of a voxel is the probability of its most likely class; in mode "regions" each region is a question of its
own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from raum_lightning.atomic import atomic
from raum_lightning.datasets import IGNORED
from raum_lightning.inference.segmentation import Segmentation
from raum_lightning.inference.temperature import temper
from raum_lightning.labels import in_classes
from raum_lightning.studies.study import Study

VOXELS = 2**15  # of a case
BINS = 15
# of temperatures that are tried
LOWEST, HIGHEST = 0.2, 10.0


@dataclass(frozen=True)
class Sample:
    """Voxels of a case: probabilities K N, and which channel is right, N."""

    probabilities: NDArray[np.float32]
    truth: NDArray[np.int64]

    @classmethod
    def of(cls, result: Segmentation) -> "Sample":
        """Return voxels of the brain of a case with a reference; a region and its opposite are two channels."""
        card, dataset = result.card, result.case.dataset
        known, _ = result.case.read_label()
        table = np.zeros(IGNORED + 1, np.int64)
        table[: dataset.num_classes] = [card.classes.index(n) if n in card.classes else 0 for n in dataset.classes]
        labels, grid = table[known], result.prediction.grid
        inside = np.flatnonzero(grid.brain & (known[grid.box] != IGNORED))
        chosen = inside[:: max(1, len(inside) // VOXELS)]
        values = result.prediction.probabilities()[:, *grid.box].reshape(len(card.channels), -1)[:, chosen]
        right = labels[grid.box].reshape(-1)[chosen].astype(np.int64)
        if card.mode == "labels":
            return cls(values, right)
        regions = [in_classes(right, members) for members in card.region_indices.values()]
        both = np.concatenate([np.stack([1 - value, value]) for value in values], axis=1)
        return cls(both, np.concatenate(regions).astype(np.int64))

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        with atomic(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, probabilities=self.probabilities, truth=self.truth.astype(np.uint8))

    @classmethod
    def read(cls, path: Path) -> "Sample":
        """Return what `save` wrote."""
        with np.load(path) as content:
            return cls(content["probabilities"], content["truth"].astype(np.int64))


def joined(samples: Sequence[Sample]) -> Sample:
    """Return several samples as one."""
    return Sample(
        np.concatenate([one.probabilities for one in samples], axis=1), np.concatenate([one.truth for one in samples])
    )


def reliability(sample: Sample, temperature: float = 1) -> NDArray[np.float64]:
    """Return for each of 15 bins of confidence of equal width its voxels, the sum of confidence, and the right ones."""
    values = temper(sample.probabilities, "labels", temperature)
    confidence, right = values.max(axis=0).astype(float), values.argmax(axis=0) == sample.truth
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return np.stack([np.bincount(bins, weights, BINS) for weights in (None, confidence, right)], axis=1)


def calibration_error(sample: Sample, temperature: float = 1) -> float:
    """Return the expected calibration error in [0, 1]: the mean gap between confidence and share of right voxels.

    Over the bins of `reliability`, weighted by how many voxels each holds.
    """
    return _error(reliability(sample, temperature))


def fit_temperature(sample: Sample) -> float:
    """Return the temperature of the least negative log-likelihood."""

    def loss(log_temperature: float) -> float:
        values = temper(sample.probabilities, "labels", float(np.exp(log_temperature)))
        chosen = np.take_along_axis(values, sample.truth[None], axis=0)
        return float(-np.log(np.maximum(chosen, 1e-12)).mean())

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded")
    return float(np.exp(found.x))


def calibrate(study: Study) -> dict[str, Any] | None:
    """Return error before and after, the temperature of all folds, and how many voxels; None without samples.

    After is each fold by the temperature of the others. `folds` has the same of each fold, with the reliability diagram
    as `before_bins` and `after_bins`: the voxels of a bin, their mean confidence, and the share that is right.
    """
    folds: list[Sample] = []
    for split in study.splits:
        paths = [study.folder.sample(name) for name in split.val]
        if not all(path.exists() for path in paths):
            return None
        folds.append(joined([Sample.read(path) for path in paths]))
    whole, found = joined(folds), list[dict[str, Any]]()
    for fold, sample in enumerate(folds):
        others = fit_temperature(joined([one for number, one in enumerate(folds) if number != fold]))
        before, after = reliability(sample), reliability(sample, others)
        found.append(
            {
                "voxels": len(sample.truth),
                "before": _error(before),
                "after": _error(after),
                "temperature": others,
                "before_bins": _shares(before),
                "after_bins": _shares(after),
            }
        )
    total = len(whole.truth)
    means = {key: sum(one[key] * one["voxels"] for one in found) / total for key in ("before", "after")}
    return {"voxels": total, **means, "temperature": fit_temperature(whole), "folds": found}


def _error(bins: NDArray[np.float64]) -> float:
    voxels, confidence, right = bins.T
    return float(np.abs(right - confidence).sum() / voxels.sum())


def _shares(bins: NDArray[np.float64]) -> list[list[float]]:
    """Return bins that hold voxels, in their order."""
    return [[int(count), confidence / count, right / count] for count, confidence, right in bins.tolist() if count]
