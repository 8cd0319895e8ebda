"""Checks of the values of module and trainer, each by the key that gave it."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch.callbacks import Callback
from torch import nn

from raum_lightning.errors import ConfigError
from raum_lightning.inference.sliding_window import FLIP_AXES
from raum_lightning.labels import Regions
from raum_lightning.losses import DiceCELoss
from raum_lightning.metrics.measures import METRICS, part_name

# arguments of Lightning's Trainer that it takes below these without a word, and fails on later or never notices
LEAST = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": 1,
    "num_nodes": 1,
    "fast_dev_run": 0,
    "gradient_clip_val": 0,
    "log_every_n_steps": 0,
    "max_epochs": -1,
    "max_steps": -1,
    "min_epochs": 0,
    "min_steps": 0,
    "num_sanity_val_steps": -1,
    "reload_dataloaders_every_n_epochs": 0,
}
# those that are a share of the batches as float, and a number of them as int
SHARES = ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches")
TIME = re.compile(r"\d+:\d\d?:\d\d?:\d\d?")
# callbacks of Lightning, and what is there in their place
REFUSED = {
    "OnExceptionCheckpoint": "would have the next run go on from its file; one that is stopped saves last.ckpt anyway",
    "BatchSizeFinder": "would resume from steps of other sizes; `raum plan` measures which data.batch_size fits",
    "LearningRateFinder": "changes a rate that module.optimizer does not follow; try some values of module.lr",
    "StochasticWeightAveraging": "averages weights that no validation scores and no checkpoint keeps; give module.ema",
}
# whose callbacks log under names that are known here
KNOWN = ("lightning", "raum_lightning")
UNITS = ("weeks", "days", "hours", "minutes", "seconds")


def check_trainer(trainer: Mapping[str, Any]) -> None:
    """Check numbers, times, callbacks and precision of a Trainer; raise `ConfigError` naming the key."""
    for key, least in LEAST.items():
        value = trainer.get(key)
        if value is not None and not (math.isfinite(value) and value >= least):
            raise ConfigError(f"trainer.{key}={value} must be a number of at least {least}")
    for key in SHARES:
        _check_share(key, trainer.get(key))
    interval = trainer.get("val_check_interval")
    if isinstance(interval, (int, float)):
        _check_share("val_check_interval", interval)
        if interval == 0:
            raise ConfigError(
                "trainer.val_check_interval=0 never validates; give a number of batches or a share of an epoch, or "
                "switch validation off with trainer.limit_val_batches=0"
            )
    for key, value in (("val_check_interval", interval), ("max_time", trainer.get("max_time"))):
        if isinstance(value, (str, Mapping)):
            _check_time(key, value)
    for unit in ("epochs", "steps"):
        low, high = trainer.get(f"min_{unit}"), trainer.get(f"max_{unit}")
        if low is not None and high is not None and 0 <= high < low:
            raise ConfigError(
                f"trainer.min_{unit}={low} is above trainer.max_{unit}={high}; raise one or lower the other"
            )
    callbacks = trainer.get("callbacks") or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        name = str(getattr(callback, "class_path", "")).rpartition(".")[2]
        if advice := REFUSED.get(name):
            raise ConfigError(f"trainer.callbacks: {name} {advice}")
    if trainer.get("precision") == "16-true":
        raise ConfigError("trainer.precision=16-true has too few digits for weights; give 16-mixed or bf16-true")


def check_seed(seed: int | bool | None) -> None:
    """Check that numpy takes the seed; raise `ConfigError`."""
    if seed is not None and not 0 <= seed < 2**32:
        raise ConfigError(f"seed_everything={seed} must be a whole number from 0 to {2**32 - 1}")


def _check_share(key: str, value: int | float | None) -> None:
    if value is None or value is False or value is True:
        return
    # a whole number that was typed arrives as float, such as -1.0
    if not (math.isfinite(value) and value >= 0 and (value <= 1 or value == int(value))):
        raise ConfigError(f"trainer.{key}={value} must be a number of batches, or a share of them between 0 and 1")


def _check_time(key: str, value: str | Mapping[str, Any]) -> None:
    """Check a time as Lightning takes it: days:hours:minutes:seconds, or these as keys."""
    if isinstance(value, str):
        fits, total = TIME.fullmatch(value.strip()) is not None, sum(map(int, re.findall(r"\d+", value)))
    else:
        numbers = [number for unit, number in value.items() if unit in UNITS and math.isfinite(number) and number >= 0]
        fits, total = len(numbers) == len(value) > 0, sum(numbers)
    if not fits or not total:
        shown = value if isinstance(value, str) else dict(value)
        raise ConfigError(
            f"trainer.{key}={shown} must be a time above 0 as days:hours:minutes:seconds, such as 00:12:00:00, or keys "
            f"of {', '.join(UNITS)}"
        )


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
    if not _is_score(monitor, metrics, regions):
        offered = ", ".join(_offered(metrics))
        raise ConfigError(
            f"module.monitor={monitor} is no score of module.metrics [{', '.join(metrics)}]: give one of these, such "
            f"as {offered}"
        )


def _is_score(monitor: str, metrics: Sequence[str], regions: Regions | None) -> bool:
    metric, part = part_name(monitor)
    return monitor == "loss" or (metric in _ordered(metrics) and _is_part(part, regions))


def _is_part(part: str, regions: Regions | None) -> bool:
    return regions is None or part in [*map(str.lower, regions), "mean"]


def _ordered(metrics: Sequence[str]) -> list[str]:
    """Return those of the metrics of which more, or less, is better."""
    return [name for name in metrics if METRICS[name].better]


def _offered(metrics: Sequence[str]) -> list[str]:
    return [*(f"{name}_mean" for name in _ordered(metrics)), "loss"]


def check_monitors(callbacks: Sequence[Callback], metrics: Sequence[str], regions: Regions | None) -> None:
    """Raise `ConfigError` for a callback that monitors what is not logged; Lightning fails on it after an epoch.

    Names under `val/`, and scores without it, are checked, unless a callback of the user's own may log others.

    Args:
        callbacks: Of the configuration.
        metrics: Names of what is validated.
        regions: Of the data set.
    """
    if any(type(callback).__module__.partition(".")[0] not in KNOWN for callback in callbacks):
        return
    for callback in callbacks:
        monitor, name = str(getattr(callback, "monitor", "")), type(callback).__name__
        score = monitor.removeprefix("val/")
        logged = score == "loss" or (part_name(score)[0] in metrics and _is_part(part_name(score)[1], regions))
        if logged != monitor.startswith("val/"):
            offered = ", ".join(f"val/{one}" for one in _offered(metrics))
            raise ConfigError(f"trainer.callbacks: {name} monitors {monitor}, which is not logged; give {offered}")


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
