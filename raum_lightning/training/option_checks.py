"""Checks of the module's values, each by the key that gave it."""

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from raum_lightning.errors import ConfigError
from raum_lightning.inference.sliding_window import FLIP_AXES
from raum_lightning.labels import Regions
from raum_lightning.losses import DiceCELoss
from raum_lightning.metrics import METRICS


def at_least(lowest: int, **numbers: float) -> None:
    """Check that each number is finite and at least `lowest`; raise `ConfigError` naming its key of `module`."""
    for key, number in numbers.items():
        if not (math.isfinite(number) and number >= lowest):
            raise ConfigError(f"module.{key}={number} must be a number of at least {lowest}")


def check_mode(mode: str | None, loss: nn.Module) -> str:
    """Return what the channels of logits are: `mode`, or else what the loss is for; raise `ConfigError` if they differ.

    Of losses only `DiceCELoss` says so; the channels are labels with any other.
    """
    if mode not in (None, "labels", "regions"):
        raise ConfigError(f"module.mode={mode!r} is neither labels nor regions")
    said = loss.mode if isinstance(loss, DiceCELoss) else None
    if mode and said and mode != said:
        raise ConfigError(f"module.mode is {mode} but the loss is for {said}; give one of them")
    return mode or said or "labels"


def check_flips(flips: int) -> int:
    """Return the number of mirrored copies; raise `ConfigError` where they are none that can be averaged."""
    if flips not in FLIP_AXES:
        raise ConfigError(f"module.flips={flips} is none of {', '.join(map(str, FLIP_AXES))}")
    return flips


def check_monitor(monitor: str, metrics: Sequence[str], regions: Regions | None = None) -> None:
    """Raise `ConfigError` for a monitor that will not be logged; without `regions` any region passes."""
    names = [name for name in metrics if METRICS[name].better]
    metric, _, part = monitor.rpartition("_")
    parts = [part] if regions is None else [*map(str.lower, regions), "mean"]
    if monitor != "loss" and not (metric in names and part in parts):
        offered = ", ".join([*(f"{name}_mean" for name in names), "loss"])
        raise ConfigError(
            f"module.monitor={monitor} is no score of module.metrics [{', '.join(metrics)}]: give one of these, such "
            f"as {offered}"
        )


def check_windows(
    network: nn.Module, roi_size: Sequence[int] | None, overlap: float, batch_size: int
) -> dict[str, Any]:
    """Return the arguments of `sliding_window`; raise `ConfigError` where a value cannot be used."""
    size = roi_size or getattr(network, "img_size", None)
    if size is None:
        raise ConfigError(f"{type(network).__name__} has no img_size: give the window as module.roi_size")
    if len(size) != 3 or min(size) < 1:
        raise ConfigError(f"module.roi_size={list(size)} must be three numbers of voxels, each at least 1")
    if not 0 <= overlap < 1:
        raise ConfigError(f"module.overlap={overlap} is not in [0, 1): it is the shared fraction of adjacent windows")
    at_least(1, sw_batch_size=batch_size)
    return {"roi_size": tuple(size), "overlap": overlap, "batch_size": batch_size}
