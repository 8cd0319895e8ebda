"""A baseline without a network: voxels brighter than a threshold on FLAIR."""

import lightning.pytorch as pl
import numpy as np
from numpy.typing import NDArray

from raum_lightning.data.store import Prepared
from raum_lightning.geometry import brain_mask
from raum_lightning.labels import REGIONS, Regions, in_classes
from raum_lightning.training.callbacks.attributes import data_of, scores_of


class FlairThreshold(pl.Callback):
    """Adds to the scores of a test what a threshold on FLAIR reaches on the same cases.

    For each region the threshold is the one with the best mean Dice over the training cases, in steps of 0.1 standard
    deviations of the brain.
    """

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fit on the training cases, where there are any, and score the test cases, on rank 0."""
        data = data_of(trainer)
        if not trainer.is_global_zero or "flair" not in data.modalities or not data.split.train:
            return
        channel, regions = data.modalities.index("flair"), data.dataset.regions
        training = [threshold_dice(data.prepared[name], channel, regions) for name in data.split.train]
        best = np.mean(training, axis=0).argmax(axis=1)
        for name, row in scores_of(pl_module).items():
            dice = threshold_dice(data.prepared[name], channel, regions)[range(len(regions)), best]
            named = {f"flair/dice_{key.lower()}": float(value) for key, value in zip(regions, dice, strict=True)}
            row |= named | {"flair/dice_mean": float(dice.mean())}


def threshold_dice(case: Prepared, channel: int, regions: Regions = REGIONS) -> NDArray[np.float64]:
    """Return the Dice of "at least t" for every region (rows) and every t from -3 to 5 in steps of 0.1 (columns)."""
    edges = np.append(np.arange(-3, 5, 0.1), np.inf)
    image, label = np.asarray(case.image[channel], np.float32), np.asarray(case.label)
    brighter = _above(image[brain_mask(case.image)], edges)
    rows = []
    for classes in regions.values():
        region = in_classes(label, classes)
        size = np.count_nonzero(region)
        rows.append(2 * _above(image[region], edges) / np.maximum(brighter + size, 1) if size else brighter == 0)
    return np.asarray(rows, np.float64)


def _above(values: NDArray[np.float32], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    counts = np.histogram(values, edges)[0]
    return np.asarray(counts[::-1].cumsum()[::-1], np.int64)
