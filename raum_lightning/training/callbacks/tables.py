"""The table of cases after validation and test: printed, and kept as CSV and JSON."""

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.trainer.states import TrainerFn
from rich.box import SIMPLE_HEAD
from rich.table import Table

from raum_lightning.atomic import write_csv, write_json
from raum_lightning.metrics import DEFAULT, explain
from raum_lightning.metrics.evaluation import plain, plain_rules
from raum_lightning.metrics.measures import part_name
from raum_lightning.metrics.statistics import mean
from raum_lightning.progress import print_table
from raum_lightning.runs.folder import RunFolder
from raum_lightning.training.callbacks.attributes import scores_of
from raum_lightning.training.callbacks.flair_baseline import FlairThreshold
from raum_lightning.training.scoring import CLEANED

# of FlairThreshold: where configurations of the release before look for it
__all__ = ["CaseTable", "FlairThreshold", "table"]

BASELINE = "flair: voxels brighter than a threshold on FLAIR, the best one on the training cases for each region."

Scores = dict[str, dict[str, float]]


class CaseTable(pl.Callback):
    """Prints the Dice of every case and the mean, and writes all metrics to the folder of a verb.

    Scores come from `pl_module.case_scores`: case id to name to value. Every name that ends in `dice_<region>` is a
    column; what stands before it heads a group of columns. Where masks were cleaned too, a second table has the means
    of both.
    """

    def __init__(self, folder: RunFolder, name: str) -> None:
        self.folder, self.name = folder, name

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print and write on rank 0."""
        scores = scores_of(pl_module)
        if trainer.is_global_zero and scores:
            rules = getattr(pl_module, "rules", DEFAULT)
            rows = ({"case": case, **row} for case, row in scores.items())
            write_csv(self.folder.cases, ["case", *next(iter(scores.values()))], rows)
            write_json(self.folder.scores, {"name": self.name, "rules": plain_rules(rules), **by_masks(scores)})
            console = print_table(table(scores))
            if any(name.startswith(CLEANED) for name in next(iter(scores.values()))):
                print_table(means(scores))
                console.print(f"cleaned by: {getattr(pl_module, 'steps', '')}", style="dim")
            console.print(f"rules {rules}; dice: {explain('dice', rules)}", style="dim")
            if any("flair/dice_mean" in row for row in scores.values()):
                console.print(BASELINE, style="dim")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do the same for `validate`; within `fit` the curves show it."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.on_test_end(trainer, pl_module)


def by_masks(scores: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return "cases", scores of raw masks by case, and in "cleaned" the same of cleaned masks where there are such."""
    cleaned = {
        case: plain({name.removeprefix(CLEANED): value for name, value in row.items() if name.startswith(CLEANED)})
        for case, row in scores.items()
    }
    raw = {
        case: plain({name: value for name, value in row.items() if not name.startswith(CLEANED)})
        for case, row in scores.items()
    }
    return {"cases": raw} | ({"cleaned": {"cases": cleaned}} if any(cleaned.values()) else {})


def table(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """Cases as rows, Dice as columns, the mean as the last row."""
    names = [
        name for name in next(iter(scores.values())) if "dice_" in name and not name.startswith(("lesion", CLEANED))
    ]
    drawn = Table("case", title="Dice on whole volumes", show_footer=True, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    drawn.columns[0].footer, drawn.columns[0].no_wrap, drawn.columns[0].vertical = "mean", True, "bottom"
    for name in names:
        group, _, region = name.rpartition("dice_")
        footer = f"{mean(row[name] for row in scores.values()):.3f}"
        heading = f"{group.strip('/_')}\n{region if region == 'mean' else region.upper()}".strip()
        drawn.add_column(heading, footer, justify="right", vertical="bottom")
    for case, row in scores.items():
        drawn.add_row(case, *(f"{row[name]:.3f}" for name in names))
    return drawn


def means(scores: Mapping[str, Mapping[str, float]]) -> Table:
    """Means over the cases of raw and cleaned masks, as rows for each metric; parts as columns."""
    names = [name.removeprefix(CLEANED) for name in next(iter(scores.values())) if name.startswith(CLEANED)]
    split = [part_name(name) for name in names]
    metrics, parts = (list(dict.fromkeys(one[place] for one in split)) for place in (0, 1))
    drawn = Table("mean of", "masks", title="raw and cleaned", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for part in parts:
        drawn.add_column(part if part == "mean" else part.upper(), justify="right")
    for metric in metrics:
        for prefix, masks in (("", "raw"), (CLEANED, "cleaned")):
            cells = (mean(row[f"{prefix}{metric}_{part}"] for row in scores.values()) for part in parts)
            drawn.add_row(metric, masks, *(f"{cell:.3f}" for cell in cells))
    return drawn
