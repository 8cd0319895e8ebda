"""Attributes of trainer and module that their classes do not declare, read in one place."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers import WandbLogger


def data_of(trainer: pl.Trainer) -> Any:
    """The run's `BratsDataModule`; Lightning sets the attribute when it attaches the data."""
    return trainer.datamodule  # type: ignore[attr-defined]


def log_interval(trainer: pl.Trainer) -> int:
    """Steps from one log to the next, 0 for never; Lightning's logger connector sets it."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    return every


def scores_of(module: pl.LightningModule) -> dict[str, dict[str, float]]:
    """What `SegmentationModule` scored last: case id to name to value."""
    scores: dict[str, dict[str, float]] = module.case_scores  # type: ignore[assignment]
    return scores


def wandb_of(trainer: pl.Trainer) -> WandbLogger | None:
    """Return the first W&B logger, on rank 0; None on others and where there is none."""
    ours = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
    return ours[0] if ours and trainer.is_global_zero else None


def shown_id(logger: WandbLogger, case: str) -> str:
    """Return what W&B calls a case: its id, or what raum's logger with `hash_ids` makes of it."""
    shown: str = getattr(logger, "shown_id", str)(case)
    return shown
