"""What a run shows on the terminal."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console

from raum_lightning.training.callbacks.attributes import data_of, log_interval
from raum_lightning.training.schedule import is_due


class ProgressBar(RichProgressBar):
    """Lightning's bar, without the number of epochs of a run that counts steps and without the logger's version."""

    def __init__(self) -> None:
        super().__init__(leave=False)

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Losses and the step of the run."""
        metrics: dict[str, Any] = (
            {"step": f"{trainer.global_step}/{trainer.max_steps}"} if trainer.max_steps > 0 else {}
        )
        metrics |= super().get_metrics(trainer, pl_module)
        if (loss := trainer.callback_metrics.get("train/loss")) is not None:
            metrics["train/loss"] = loss.item()
        metrics.pop("v_num", None)
        return metrics

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leaves the terminal to the table of scores, which is to be the last thing on it."""
        super().on_test_end(trainer, pl_module)
        self._end()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The same for `validate`."""
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._end()

    def _end(self) -> None:
        if self.progress is not None:
            self.progress.stop()

    def _update_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # to show a loss is to wait for it, and the device would wait for the next step
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if last or is_due(trainer.global_step, log_interval(trainer)):
            super()._update_metrics(trainer, pl_module)

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch}".ljust(len(self.validation_description))


class RunSummary(pl.Callback):
    """Says at the start what is trained on what, and at the end where it lies and, of `best`, how good it was."""

    def __init__(self, folder: Path, best: ModelCheckpoint | None) -> None:
        self.folder, self.best = folder, best

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """One line each for network, data and steps, on rank 0."""
        if not trainer.is_global_zero:
            return
        module: Any = pl_module
        data = data_of(trainer)
        parameters = sum(weight.numel() for weight in module.network.parameters()) / 1e6
        split = data.split
        batch = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        console = Console(highlight=False, soft_wrap=True)
        console.print(f"run      {self.folder}")
        console.print(f"network  {type(module.network).__name__}, {parameters:.2f} M parameters, {trainer.precision}")
        console.print(
            f"cases    {len(split.train)} train, {len(split.val)} val, {len(split.test)} test, from {data.root}"
        )
        console.print(
            f"batch    {batch} patches a step ({data.batch_size} per rank, {trainer.world_size} ranks, "
            f"{trainer.accumulate_grad_batches} accumulated); lr {module.lr:g} is not scaled by it"
        )

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Best score and checkpoint, on rank 0."""
        if not trainer.is_global_zero or self.best is None:
            return
        score, path = self.best.best_model_score, self.best.best_model_path
        said = f"best mean Dice on validation {float(score):.3f}, {path}" if score is not None else "was not validated"
        Console(highlight=False, soft_wrap=True).print(f"run {self.folder} {said}")
