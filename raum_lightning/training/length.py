"""How long a run is: as its steps or epochs say, or its time."""

import math

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Timer


def only_timer(trainer: pl.Trainer) -> Timer | None:
    """Return what ends a run that neither steps nor epochs end: `trainer.max_time`, or a `Timer` of one's own."""
    callbacks: list[pl.Callback] = getattr(trainer, "callbacks", [])
    timers = [callback for callback in callbacks if isinstance(callback, Timer)]
    limits = [timer for timer in timers if timer.time_remaining() is not None]
    endless = trainer.max_steps == -1 and trainer.max_epochs in (None, -1)
    return min(limits, key=lambda timer: timer.time_remaining() or 0) if endless and limits else None


def run_length(trainer: pl.Trainer) -> float:
    """Return the optimiser steps of a run; where time alone ends it, as many as fit into it at the mean pace so far.

    The latter is infinite before the first step, and at the end of the time it is the step at which the run is, so
    that a learning rate by this length has its whole course within the time. The clock is that of this process.
    """
    timer = only_timer(trainer)
    if timer is None:
        return float(trainer.estimated_stepping_batches)
    elapsed, left = timer.time_elapsed(), max(0.0, timer.time_remaining() or 0.0)
    return trainer.global_step * (1 + left / elapsed) if trainer.global_step and elapsed else math.inf
