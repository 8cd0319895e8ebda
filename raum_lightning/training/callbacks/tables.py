"""The table of cases after validation and test: printed, and kept as CSV."""

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from raum_lightning.atomic import write_csv
from raum_lightning.data.store import Prepared
from raum_lightning.geometry import brain_mask
from raum_lightning.labels import REGIONS, in_classes
from raum_lightning.metrics import DEFAULT, explain
from raum_lightning.training.callbacks.attributes import data_of, scores_of

BASELINE = "flair: voxels brighter than a threshold on FLAIR, the best one on the training cases for each region."

Scores = dict[str, dict[str, float]]


class CaseTable(pl.Callback):
    """Prints the Dice of every case and the mean, and writes all metrics to `path`, CSV.

    Scores come from `pl_module.case_scores`: case id to name to value. Every name that ends in `dice_<region>` is a
    column; what stands before it heads a group of columns.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints and writes on rank 0."""
        scores = scores_of(pl_module)
        if trainer.is_global_zero and scores:
            rows = ({"case": case, **row} for case, row in scores.items())
            write_csv(self.path, ["case", *next(iter(scores.values()))], rows)
            console = Console()
            console.print(table(scores))
            rules = getattr(pl_module, "rules", DEFAULT)
            console.print(f"rules {rules}; dice: {explain('dice', rules)}", style="dim")
            if any("flair/dice_mean" in row for row in scores.values()):
                console.print(BASELINE, style="dim")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same for `validate`; within `fit` the curves say it."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.on_test_end(trainer, pl_module)


class FlairThreshold(pl.Callback):
    """Adds, at test, what a threshold on FLAIR reaches on the same cases, so that the network's Dice means something.

    For each region the threshold is the one with the best mean Dice over the training cases, in steps of 0.1 standard
    deviations of the brain.
    """

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fits on the training cases and scores the test cases, on rank 0."""
        scores = scores_of(pl_module)
        data = data_of(trainer)
        if not trainer.is_global_zero or "flair" not in data.modalities:
            return
        channel = data.modalities.index("flair")
        training = [threshold_dice(data.prepared[name], channel) for name in data.split.train]
        best = np.mean(training, axis=0).argmax(axis=1)
        for name, row in scores.items():
            dice = threshold_dice(data.prepared[name], channel)[range(len(REGIONS)), best]
            named = {f"flair/dice_{key.lower()}": float(value) for key, value in zip(REGIONS, dice, strict=True)}
            row |= named | {"flair/dice_mean": float(dice.mean())}


def threshold_dice(case: Prepared, channel: int) -> NDArray[np.float64]:
    """Dice of "brighter than t" for every region (rows: WT, TC, ET) and every t from -3 to 5 in steps of 0.1."""
    edges = np.append(np.arange(-3, 5, 0.1), np.inf)
    image, label = np.asarray(case.image[channel], np.float32), np.asarray(case.label)
    brighter = _above(image[brain_mask(case.image)], edges)
    rows = []
    for classes in REGIONS.values():
        region = in_classes(label, classes)
        size = np.count_nonzero(region)
        rows.append(2 * _above(image[region], edges) / np.maximum(brighter + size, 1) if size else brighter == 0)
    return np.asarray(rows, np.float64)


def _above(values: NDArray[np.float32], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    counts = np.histogram(values, edges)[0]
    return np.asarray(counts[::-1].cumsum()[::-1], np.int64)


def table(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """Cases as rows, Dice as columns, the mean as the last row."""
    names = [name for name in next(iter(scores.values())) if "dice_" in name and not name.startswith("lesion")]
    drawn = Table("case", title="Dice on whole volumes", show_footer=True, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.columns[0].footer, drawn.columns[0].no_wrap = "mean", True
    for name in names:
        group, _, region = name.rpartition("dice_")
        mean = fmean(row[name] for row in scores.values())
        heading = f"{group.strip('/_')}\n{region if region == 'mean' else region.upper()}"
        drawn.add_column(heading, f"{mean:.3f}", justify="right")
    for case, row in scores.items():
        drawn.add_row(case, *(f"{row[name]:.3f}" for name in names))
    return drawn
