"""Learning rate schedules by step, and work that is not done in every step."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from raum_lightning.errors import ConfigError


def warmup_cosine(step: int, *, warmup_steps: float, total_steps: float, final: float = 0.0) -> float:
    """Return the factor on the learning rate at `step`, which counts from 0.

    It rises linearly to 1 over `warmup_steps` and falls by half a cosine to `final`. The first step is already above 0,
    the last one (`total_steps` - 1) is close above `final`.
    """
    if step < warmup_steps:
        return _warmup(step, warmup_steps)
    share = _share(step, warmup_steps, total_steps)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))


def warmup_polynomial(step: int, *, warmup_steps: float, total_steps: float, power: float = 0.9) -> float:
    """Return the factor on the learning rate at `step`: as `warmup_cosine`, but with nnU-Net's fall, a power, to 0."""
    if step < warmup_steps:
        return _warmup(step, warmup_steps)
    return float((1 - _share(step, warmup_steps, total_steps)) ** power)


ENDLESS = (
    "the learning rate schedule needs the length of the run: set trainer.max_steps or max_epochs, or trainer.max_time "
    "with trainer.max_steps=-1 to have it end with the time"
)
SCHEDULES: dict[str, Callable[..., float]] = {"cosine": warmup_cosine, "polynomial": warmup_polynomial}


def _warmup(step: int, warmup_steps: float) -> float:
    return (step + 1) / (warmup_steps + 1)


def _share(step: int, warmup_steps: float, total_steps: float) -> float:
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


def is_due(step: int, every: int) -> bool:
    """Return whether what is done at every so many steps is done at this one; with 0 it never is."""
    return every > 0 and step % every == 0
