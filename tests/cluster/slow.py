"""A callback that gives a test time to interrupt a job."""

import os
import time
from typing import Any

import lightning.pytorch as pl


class Slow(pl.Callback):
    """Sleeps after every step of a job's first start."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_train_batch_end(self, trainer: pl.Trainer, *unused: Any) -> None:
        if "SLURM_RESTART_COUNT" not in os.environ:
            time.sleep(self.seconds)
