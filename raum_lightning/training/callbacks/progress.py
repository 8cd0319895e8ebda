"""What a run shows on the terminal."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn
from rich.text import Text

from raum_lightning.training.callbacks.attributes import data_of, log_interval
from raum_lightning.training.length import only_timer, run_length, time_left
from raum_lightning.training.schedule import is_due

# columns of the narrowest terminal
WIDTH = 80


class Clock:
    """Measures a training from `start` on: seconds until the run's end, and where they were spent."""

    def __init__(self) -> None:
        self.began, self.first = time.monotonic(), math.inf
        self.validated, self.paused, self.waited = 0.0, 0.0, 0.0

    def start(self, trainer: pl.Trainer) -> None:
        """Begin, at the step at which the trainer is."""
        self.began, self.first, self.validated = time.monotonic(), trainer.global_step, 0.0
        self.waited = _waited(trainer)

    def pause(self) -> None:
        """Begin a validation."""
        self.paused = time.monotonic()

    def resume(self) -> None:
        """End a validation."""
        self.validated += time.monotonic() - self.paused

    def left(self, trainer: pl.Trainer) -> float | None:
        """Return the seconds until the run's end, validations included; None before the first step."""
        if timer := only_timer(trainer):
            return time_left(timer)
        taken = trainer.global_step - self.first
        rest = run_length(trainer) - trainer.global_step
        return (time.monotonic() - self.began) / taken * rest if taken else None

    def line(self, trainer: pl.Trainer) -> str:
        """Return where the time went: waiting for data, validation, and steps with all else."""
        total = time.monotonic() - self.began
        phases = {"waiting for data": _waited(trainer) - self.waited, "validation": self.validated}
        phases = {"steps": total - sum(phases.values())} | phases
        shares = ", ".join(f"{name} {seconds / max(total, 1e-9):.0%}" for name, seconds in phases.items())
        return f"time     {clock(total)}: {shares}"


def clock(seconds: float) -> str:
    """Return hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _waited(trainer: pl.Trainer) -> float:
    return float(getattr(trainer.train_dataloader, "waited", 0.0))


class Remaining(ProgressColumn):
    """Beside the bar of the training the time until the run's end, beside others how many cases are done."""

    def __init__(self, bar: "ProgressBar") -> None:
        super().__init__()
        self.bar = bar

    def render(self, task: Task) -> Text:
        """Return the text of a bar."""
        if task.id != self.bar.train_progress_bar_id:
            return Text(f"{task.completed:.0f}/{task.total or 0:.0f}")
        return Text("-:--:-- left" if self.bar.left is None else f"{clock(self.bar.left)} left")


class ProgressBar(RichProgressBar):
    """Lightning's bar in one line of at most 80 columns: time until the run's end, step, loss and last mean Dice."""

    def __init__(self) -> None:
        super().__init__(leave=False)
        self.clock = Clock()
        self.left: float | None = None

    def configure_columns(self, trainer: pl.Trainer) -> list[Any]:
        """Return description, bar and what remains; Lightning adds the metrics."""
        return [TextColumn("{task.description}"), BarColumn(10), Remaining(self)]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock too."""
        super().on_train_start(trainer, pl_module)
        self.clock.start(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the terminal to what `RunSummary` says."""
        super().on_train_end(trainer, pl_module)
        self._end()

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return the step of the run, the loss and the last mean Dice."""
        metrics: dict[str, Any] = {"step": _of(trainer.global_step, run_length(trainer))}
        metrics |= super().get_metrics(trainer, pl_module)
        self.left = self.clock.left(trainer)
        if (loss := trainer.callback_metrics.get("train/loss")) is not None:
            metrics["loss"] = loss.item()
        if (dice := trainer.callback_metrics.get("val/dice_mean")) is not None:
            metrics["dice"] = dice.item()
        metrics.pop("v_num", None)
        return metrics

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the terminal to the table of scores, which is to be the last thing on it."""
        super().on_test_end(trainer, pl_module)
        self._end()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Do the same for `validate`."""
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
        return "Training".ljust(len(self.validation_description))


class RunSummary(pl.Callback):
    """Says what is trained on what, a line for each validation, and at the end where it lies, how good, and the time.

    Args:
        folder: Of the run.
        best: Knows the best score; None where no checkpoints are written.
    """

    def __init__(self, folder: Path, best: ModelCheckpoint | None) -> None:
        self.folder, self.best = folder, best
        self.clock = Clock()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print one line each for network, data and steps, on rank 0."""
        self.clock.start(trainer)
        if not trainer.is_global_zero:
            return
        module: Any = pl_module
        data = data_of(trainer)
        parameters = sum(weight.numel() for weight in module.network.parameters()) / 1e6
        split = data.split
        rate = max(group["initial_lr"] for group in trainer.optimizers[0].param_groups)
        batch = data.batch_size * trainer.world_size * trainer.accumulate_grad_batches
        # builtin, so that a bar that is being drawn lets it pass above itself
        print(f"run      {self.folder}")
        print(f"network  {type(module.network).__name__}, {parameters:.2f} M parameters, {trainer.precision}")
        print(f"cases    {len(split.train)} train, {len(split.val)} val, {len(split.test)} test, from {data.root}")
        print(
            f"batch    {batch} patches a step ({data.batch_size} per rank, {trainer.world_size} "
            f"rank{'s' * (trainer.world_size > 1)}, {trainer.accumulate_grad_batches} accumulated)"
        )
        print(f"lr       {rate:g}, not scaled by the batch")
        for key, names in module.recipe.unused.items():
            print(f"unused   {', '.join(names)}: module.{key} has its own")
        print("lines    each validation: step, loss, Dice, best so far, patches/s, time left", flush=True)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the time."""
        self.clock.pause()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print a line within `fit`, on rank 0."""
        self.clock.resume()
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or not trainer.is_global_zero:
            return
        steps, left = run_length(trainer), self.clock.left(trainer)
        values = {name: float(value) for name, value in trainer.callback_metrics.items()}
        print(validation_line(values, trainer.global_step, steps, best=self._best(values), left=left), flush=True)

    def _best(self, values: Mapping[str, float]) -> float | None:
        """Return the best score so far; the checkpoint that knows of those before has yet to see this one."""
        if self.best is None or self.best.monitor is None:
            return None
        known = [] if self.best.best_model_score is None else [float(self.best.best_model_score)]
        known += [values[self.best.monitor]] if self.best.monitor in values else []
        return (min if self.best.mode == "min" else max)(known, default=None)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print where the time went, the best score and its checkpoint, on rank 0."""
        if not trainer.is_global_zero:
            return
        taken = f"steps    all {trainer.global_step} were taken before: nothing is left to train"
        print(self.clock.line(trainer) if trainer.global_step > self.clock.first else taken)
        if self.best is None:
            return
        if getattr(trainer, "fast_dev_run", False):
            print("trainer.fast_dev_run: no checkpoint is written")
            return
        score, path = self.best.best_model_score, self.best.best_model_path
        name = "mean Dice" if self.best.monitor == "val/dice_mean" else self.best.monitor
        said = f"best {name} on validation {float(score):.3f}:" if score is not None else "was not validated"
        print(f"run      {self.folder}")
        print(said)
        if score is not None:
            print(path, flush=True)


def validation_line(
    values: Mapping[str, float], step: int, steps: float, *, best: float | None = None, left: float | None = None
) -> str:
    """Return one line of a validation that fits into 80 columns: step, loss, Dice, best, patches/s, time left.

    Args:
        values: What is logged, by name.
        step: Steps taken.
        steps: Steps of the whole run.
        best: The best score so far.
        left: Seconds until the run's end.
    """
    # each with its rank: where there are too many, those of the highest rank are left out first
    parts = [(0, _of(step, steps))]
    parts += [(3, f"loss {_short(values['train/loss'])}")] if "train/loss" in values else []
    dice = {name.removeprefix("val/dice_"): value for name, value in values.items() if name.startswith("val/dice_")}
    mean = dice.pop("mean", None)
    parts += [(4 + place, f"{part.upper()} {_short(value)}") for place, (part, value) in enumerate(dice.items())]
    parts += [(0, f"mean {_short(mean)}")] if mean is not None else []
    parts += [(1, f"best {_short(best)}")] if best is not None else []
    parts += [(99, f"{values['perf/patches_per_s']:.3g}/s")] if "perf/patches_per_s" in values else []
    parts += [(2, f"{left // 3600:.0f}:{left % 3600 // 60:02.0f} h")] if left is not None else []
    while len(line := " ".join(text for _, text in parts)) > WIDTH:
        parts.remove(max(parts))
    return line


def _of(step: int, steps: float) -> str:
    return f"{step}/{steps:.0f}" if math.isfinite(steps) else str(step)


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")
