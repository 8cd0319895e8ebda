"""The learning rate as it is logged."""

from typing import Any

import lightning.pytorch as pl

from raum_lightning.training.callbacks.attributes import log_interval
from raum_lightning.training.schedule import is_due


class LearningRate(pl.Callback):
    """Logs `lr`, the rate at which each step is taken: of several groups of parameters, that of the highest.

    Lightning's monitor would give every group a name of its own.
    """

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Log it, in the steps whose loss is logged."""
        step = trainer.global_step
        if batch_idx % trainer.accumulate_grad_batches or not is_due(step + 1, log_interval(trainer)):
            return
        rate = max(float(group["lr"]) for group in trainer.optimizers[0].param_groups)
        for logger in trainer.loggers:
            logger.log_metrics({"lr": rate}, step=step)
