"""Uncertainty of probabilities averaged over flips, folds or an ensemble: by voxel, and by case for a reviewer."""

import csv
import math
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from raum_lightning.atomic import write_csv
from raum_lightning.errors import OutputError
from raum_lightning.inference.segmentation import Segmentation
from raum_lightning.labels import Regions, in_classes

REVIEW = "review.csv"


def entropy(probabilities: NDArray[np.float32], mode: str) -> NDArray[np.float32]:
    """Return the entropy X Y Z of probabilities K X Y Z, in [0, 1]: 0 is certain, 1 is all alike.

    In `mode` "labels" it is that over the classes divided by log K, in "regions" the largest of the regions' binary
    entropies in bits.
    """
    total = np.zeros(probabilities.shape[1:], np.float32)
    for channel in probabilities:
        if mode == "labels":
            total -= _p_log_p(channel) / math.log(len(probabilities))
        else:
            np.maximum(total, -(_p_log_p(channel) + _p_log_p(1 - channel)) / math.log(2), out=total)
    return total.clip(0, 1)


def estimated_dice(
    probabilities: NDArray[np.float32], labels: NDArray[np.uint8], mode: str, regions: Regions
) -> dict[str, float]:
    """Return for each region the Dice that a mask would have if the probabilities were right, in [0, 1].

    That is twice the probability within the mask over the sum of mask and probability, each with one voxel more, so
    that an empty mask of a region that is nowhere likely counts as right.

    Args:
        probabilities: K X Y Z, of classes in `mode` "labels", else of regions.
        labels: Class indices X Y Z of the mask, as it is written.
        regions: Class indices by region.
    """
    found = {}
    for number, (name, members) in enumerate(regions.items()):
        inside = in_classes(labels, members)
        values = probabilities[list(members)].sum(0) if mode == "labels" else probabilities[number]
        shared, likely, mask = float(values[inside].sum()), float(values.sum(dtype=np.float64)), float(inside.sum())
        found[name] = (2 * shared + 1) / (likely + mask + 1)
    return found


class Review:
    """The table of a folder of masks, in the order in which a person should look at them: the least sure first.

    Args:
        folder: The table is its review.csv; cases that it has already, or that another process adds, stay in it.

    Raises:
        OutputError: There is a review.csv that is another table.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / REVIEW
        self.own: dict[str, dict[str, str]] = {}
        self.rows = self._read()

    def add(self, result: Segmentation) -> None:
        """Add a case: estimated Dice, its mean and by region, and volumes in ml."""
        given = result.prediction
        dice = estimated_dice(result.probabilities, result.labels, given.mode, given.regions)
        row = {"case": result.case.id, "estimated_dice": f"{fmean(dice.values()):.4f}"}
        row |= {f"estimated_dice_{name.lower()}": f"{value:.4f}" for name, value in dice.items()}
        row |= {f"ml_{name.lower()}": f"{volume:.3f}" for name, volume in result.volumes.items()}
        self.own[result.case.id] = row
        self.write()

    def write(self) -> None:
        """Write the table with what other processes have written into it since."""
        self.rows = self._read() | self.own
        ordered = sorted(self.rows.values(), key=lambda one: (float(one["estimated_dice"]), one["case"]))
        write_csv(self.path, list(dict.fromkeys(key for one in ordered for key in one)), ordered)

    def _read(self) -> dict[str, dict[str, str]]:
        if not self.path.exists():
            return {}
        try:
            with self.path.open(encoding="utf-8", newline="") as file:
                table = csv.DictReader(file)
                if list(table.fieldnames or ())[:2] != ["case", "estimated_dice"]:
                    raise ValueError
                rows = {row["case"]: row for row in table}
            for row in rows.values():
                float(row["estimated_dice"])
        except (ValueError, TypeError, csv.Error):
            raise OutputError(
                f"{self.path}: was not written by `raum segment`, or changed since; move it, or give another --out"
            ) from None
        return rows


def _p_log_p(values: NDArray[np.float32]) -> NDArray[np.float32]:
    result: NDArray[np.float32] = values * np.log(np.maximum(values, np.float32(1e-30)))
    return result
