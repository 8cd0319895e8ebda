"""What W&B is told of a run besides its numbers: tables of cases, the best checkpoint, how it ended."""

import csv
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from raum_lightning.runs.outputs import VOLUMES
from raum_lightning.training.callbacks.attributes import scores_of, shown_id, wandb_of
from raum_lightning.training.callbacks.failures import FailedElsewhere


class WandbRun(pl.Callback):
    """Lets `validate`, `test` and `predict` write into the W&B run that trained; without a W&B logger it does nothing.

    Their scores are part of its summary, and the cases a table: `validate/cases`, `test/cases`, or `predict/cases` with
    the volumes of the regions in ml. At the end of `fit` raum's own logger is given the best checkpoint and an alert.

    Args:
        predictions: Folder in which `PredictionWriter` has left the volumes.
        best: Knows the best score; None where no checkpoints are written.
    """

    def __init__(self, predictions: Path, best: ModelCheckpoint | None) -> None:
        self.predictions, self.best = predictions, best

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Tell raum's own logger the verb and the run's folder, before anything is logged."""
        logger: Any = wandb_of(trainer)
        if hasattr(logger, "verb"):
            logger.verb, logger.folder = _verb(trainer), Path(trainer.default_root_dir)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the scores of every case, which stand in `pl_module.case_scores`."""
        logger, scores = wandb_of(trainer), scores_of(pl_module)
        if logger is not None and scores:
            columns = ["case", *next(iter(scores.values()))]
            rows = [[shown_id(logger, case), *row.values()] for case, row in scores.items()]
            logger.log_table(f"{_verb(trainer)}/cases", columns, rows)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the same for `validate`."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.on_test_end(trainer, pl_module)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the volumes of every case."""
        logger, path = wandb_of(trainer), self.predictions / VOLUMES
        if logger is None or not path.is_file():
            return
        with path.open(newline="") as file:
            columns, *rows = csv.reader(file)
        cells = [
            [shown_id(logger, case), *(float(volume) if volume else None for volume in volumes)]
            for case, *volumes in rows
        ]
        logger.log_table("predict/cases", columns, cells)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hand over the best checkpoint, and say that the training has ended."""
        logger: Any = wandb_of(trainer)
        if not hasattr(logger, "keep_best"):
            return
        score = None if self.best is None else self.best.best_model_score
        said = f"{trainer.global_step} steps"
        if self.best is not None and score is not None:
            logger.keep_best(Path(self.best.best_model_path), float(score))
            said += f", best {self.best.monitor} {float(score):.3f}"
        logger.alert("training has ended", said)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say why a training has ended, where it failed."""
        logger: Any = wandb_of(trainer)
        if (
            trainer.state.fn == TrainerFn.FITTING
            and hasattr(logger, "alert_failure")
            and isinstance(exception, (Exception, FailedElsewhere))
        ):
            logger.alert_failure(exception)


def _verb(trainer: pl.Trainer) -> str:
    return "" if trainer.state.fn is None else trainer.state.fn.value
