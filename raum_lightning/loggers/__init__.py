"""Where the numbers of a run go: a CSV file, and Weights & Biases besides."""

import os

# before wandb is imported, which else looks up the host of its own crash reports, of offline runs too
os.environ.setdefault("WANDB_ERROR_REPORTING", "false")

from raum_lightning.loggers.csv_file import CSVLogger
from raum_lightning.loggers.wandb_logger import WandbLogger
from raum_lightning.loggers.wandb_run import finish_wandb, sending, wandb_mode

__all__ = ["CSVLogger", "WandbLogger", "finish_wandb", "sending", "wandb_mode"]
