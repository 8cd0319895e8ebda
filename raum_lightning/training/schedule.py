"""Learning rate schedules by step, how long a run is, and work that is not done in every step."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Timer

from raum_lightning.errors import ConfigError


def warmup_cosine(step: int, *, warmup_steps: int, total_steps: float, final: float = 0.0) -> float:
    """Return the factor on the learning rate at `step`, which counts from 0.

    It rises linearly to 1 over `warmup_steps` and falls by half a cosine to `final`. The first step is already above 0,
    the last one (`total_steps` - 1) is close above `final`.
    """
    if step < warmup_steps:
        return _warmup(step, warmup_steps)
    share = _share(step, warmup_steps, total_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))


def warmup_polynomial(step: int, *, warmup_steps: int, total_steps: float, power: float = 0.9) -> float:
    """Return the factor on the learning rate at `step`: as `warmup_cosine`, but with nnU-Net's fall, a power, to 0."""
    if step < warmup_steps:
        return _warmup(step, warmup_steps)
    return float((1 - _share(step, warmup_steps, total_steps)) ** power)


ENDLESS = (
    "the learning rate schedule needs the length of the run: set trainer.max_steps or max_epochs, or trainer.max_time "
    "with trainer.max_steps=-1 to have it end with the time"
)
SCHEDULES: dict[str, Callable[..., float]] = {"cosine": warmup_cosine, "polynomial": warmup_polynomial}


def _warmup(step: int, warmup_steps: int) -> float:
    return (step + 1) / (warmup_steps + 1)


def _share(step: int, warmup_steps: int, total_steps: float) -> float:
    """Return how much of the fall has passed, in [0, 1]."""
    return min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))


def check_length(trainer: Mapping[str, Any], warmup_steps: int) -> None:
    """Check that a trainer with these arguments trains at all, and longer than the warm-up; raise `ConfigError`."""
    for key in ("max_steps", "max_epochs", "limit_train_batches"):
        if trainer.get(key) == 0:
            raise ConfigError(f"trainer.{key}=0 trains nothing; give at least 1, or leave it out")
    steps = trainer.get("max_steps")
    if steps is not None and steps < -1:
        raise ConfigError(f"trainer.max_steps={steps} must be at least 1, or -1 where trainer.max_epochs counts")
    if steps == trainer.get("max_epochs") == -1 and not trainer.get("max_time"):
        raise ConfigError(ENDLESS)
    if steps is not None and 0 < steps < warmup_steps:
        raise ConfigError(
            f"module.warmup_steps={warmup_steps} is longer than the run of trainer.max_steps={steps}: "
            "lower it, or raise trainer.max_steps"
        )


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


def is_due(step: int, every: int) -> bool:
    """Return whether what is done at every so many steps is done at this one; with 0 it never is."""
    return every > 0 and step % every == 0
