"""How long a run is: as its steps or epochs say, or its time."""

import math
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint, GradientAccumulationScheduler, Timer


def time_limit(trainer: pl.Trainer) -> Timer | None:
    """Return what ends a run after some time: `trainer.max_time`, or a `Timer` of one's own."""
    timers = [callback for callback in _callbacks(trainer) if isinstance(callback, Timer)]
    limits = [timer for timer in timers if timer.time_remaining() is not None]
    return min(limits, key=lambda timer: timer.time_remaining() or 0, default=None)


def only_timer(trainer: pl.Trainer) -> Timer | None:
    """Return the time limit of a run that neither steps nor epochs end."""
    endless = trainer.max_steps == -1 and trainer.max_epochs in (None, -1)
    return time_limit(trainer) if endless else None


def time_left(timer: Timer) -> float:
    """Return the seconds until a timer ends the run: 0 afterwards, as in the last validation."""
    return max(0.0, timer.time_remaining() or 0.0)


def run_length(trainer: pl.Trainer, start: tuple[int, float] = (0, 0.0)) -> float:
    """Return the optimiser steps of a run; where time alone ends it, as many as fit into it at the mean pace so far.

    The latter is infinite before the first step, and at the end of the time it is the step at which the run is, so
    that a learning rate by this length has its whole course within the time. The clock is that of this process.

    Args:
        trainer: Of the run.
        start: Steps and seconds from which the pace is taken.
    """
    timer = only_timer(trainer)
    if timer is None:
        return _counted(trainer)
    steps, seconds = trainer.global_step - start[0], timer.time_elapsed() - start[1]
    return trainer.global_step + time_left(timer) * steps / seconds if steps > 0 and seconds > 0 else math.inf


def _counted(trainer: pl.Trainer) -> float:
    """Return the steps of a run that steps or epochs end; Lightning has all epochs accumulate as the present one."""
    steps = float(trainer.estimated_stepping_batches)  # which also sets up the training batches
    if _schedule(trainer) is None or trainer.max_epochs in (None, -1):
        return steps
    total = sum(
        math.ceil(trainer.num_training_batches / accumulated(trainer, epoch)) for epoch in range(trainer.max_epochs)
    )
    return float(total if trainer.max_steps == -1 else min(total, trainer.max_steps))


def accumulated(trainer: pl.Trainer, epoch: int) -> int:
    """Return how many batches of an epoch make a step, by `trainer.accumulate_grad_batches` or a schedule of it."""
    schedule = _schedule(trainer)
    return schedule.get_accumulate_grad_batches(epoch) if schedule else trainer.accumulate_grad_batches


def accumulations(trainer: pl.Trainer) -> Sequence[int]:
    """Return how many batches make a step in any epoch."""
    schedule = _schedule(trainer)
    return list(schedule.scheduling.values()) if schedule else [trainer.accumulate_grad_batches]


def _schedule(trainer: pl.Trainer) -> GradientAccumulationScheduler | None:
    schedules = [one for one in _callbacks(trainer) if isinstance(one, GradientAccumulationScheduler)]
    return schedules[0] if schedules else None


def _callbacks(trainer: pl.Trainer) -> list[pl.Callback]:
    callbacks: list[pl.Callback] = getattr(trainer, "callbacks", [])
    return callbacks


class TotalSteps:
    """The optimiser steps of a run as its learning rate follows them: the same on every rank, and for a whole step.

    Where time ends the run, its pace is taken from the end of the first step, for which workers start and a network is
    compiled.

    Args:
        trainer: Of the run.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        self.trainer, self.by_time = trainer, only_timer(trainer) is not None
        self.start, self.step, self.steps = (0, 0.0), -1, math.inf

    def __call__(self) -> float:
        """Return them, by the clock of rank 0: with other learning rates the weights of ranks would drift apart."""
        timer = only_timer(self.trainer)
        if timer is None:
            return run_length(self.trainer)
        if self.step != self.trainer.global_step:
            self.step = self.trainer.global_step
            if self.step == 1:
                self.start = 1, timer.time_elapsed()
            self.steps = self.trainer.strategy.broadcast(run_length(self.trainer, self.start))
        return self.steps


class LastValidation(Checkpoint):
    """Validates what a run has learnt in the end, and lets one whose time is over finish its step.

    Lightning (2.6) would end without validation in the middle of an epoch or in one that is not to be validated, and
    by time between the batches of one step. A `Checkpoint` because Lightning calls these last, when its `Timer` has
    looked at the clock.
    """

    def __init__(self) -> None:
        self.ending = False
        self.every: int | None = None
        self.least: tuple[int | None, int | None] = (None, None)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note when the run validates, and how long it is at least."""
        self.every, self.least = trainer.check_val_every_n_epoch, (trainer.min_epochs, trainer.min_steps)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Put the end off to that of the step, whose epoch is validated."""
        stepped = trainer.is_last_batch or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        self.ending |= trainer.should_stop
        if self.ending and not stepped and (timer := time_limit(trainer)):
            timer._verbose = False  # it would say so again after each batch of the step
        trainer.should_stop = (self.ending and stepped) or self._is_last(trainer)
        if self._is_last(trainer):
            # Lightning ends here whatever they say, but would wait for them to validate
            self._hold(trainer, (None, None))
        held = trainer.current_epoch < (trainer.min_epochs or 0) or trainer.global_step < (trainer.min_steps or 0)
        if trainer.should_stop and self.every is not None and not held:
            trainer.check_val_every_n_epoch = 1

    @staticmethod
    def _is_last(trainer: pl.Trainer) -> bool:
        """Whether steps or epochs end the run after this batch."""
        by_steps = 0 < trainer.max_steps <= trainer.global_step
        return by_steps or (trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the trainer as it was."""
        trainer.check_val_every_n_epoch, self.ending = self.every, False
        self._hold(trainer, self.least)

    @staticmethod
    def _hold(trainer: pl.Trainer, least: tuple[int | None, int | None]) -> None:
        """Let the run not end early before so many epochs and steps."""
        loop = trainer.fit_loop
        loop.min_epochs, loop.epoch_loop.min_steps = least
