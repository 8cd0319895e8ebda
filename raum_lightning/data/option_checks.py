"""Options of the data that cannot be used, refused by key and value before any case is read."""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from numbers import Integral
from typing import Any

from raum_lightning.errors import ConfigError


def check_count(key: str, value: Any, least: int) -> None:
    """Raise `ConfigError` unless `value` is a whole number of at least `least`."""
    if not isinstance(value, Integral) or value < least:
        raise ConfigError(f"data.{key}={value} must be a whole number of at least {least}")


def check_share(key: str, value: float) -> None:
    """Raise `ConfigError` unless `value` is in [0, 1]."""
    if not 0 <= value <= 1:
        raise ConfigError(f"data.{key}={value} must be between 0 and 1")


def check_size(key: str, value: Any) -> None:
    """Raise `ConfigError` unless `value` is three whole numbers of voxels."""
    sizes = list(value) if isinstance(value, Iterable) else []
    if len(sizes) != 3 or not all(isinstance(size, Integral) and int(size) >= 1 for size in sizes):
        raise ConfigError(f"data.{key}={sizes or value} must be three whole numbers of at least 1, in voxels")


def check_names(key: str, names: Sequence[str], known: Sequence[str]) -> None:
    """Raise `ConfigError` unless `names` are some of `known`, each once."""
    if isinstance(names, str):
        raise ConfigError(f"data.{key}={names!r} must be a list of names: [{names!r}]")
    if not names or not set(names) <= set(known) or len(set(names)) < len(names):
        raise ConfigError(f"data.{key}={list(names)} must be some of {', '.join(known)}, each once")


def check_without(names: Sequence[str], modalities: Sequence[str]) -> None:
    """Raise `ConfigError` unless data.without names some of `modalities`, and not all of them."""
    if names:
        check_names("without", names, modalities)
    if names and len(names) == len(modalities):
        raise ConfigError(f"data.without={list(names)} leaves no modality; leave one out of it")


def check_weights(key: str, weights: Mapping[str, Any]) -> None:
    """Raise `ConfigError` unless `weights` are finite numbers, none below 0, naming the first that is not."""
    for name, weight in weights.items():
        if not isinstance(weight, (int, float)) or not isfinite(weight) or weight < 0:
            raise ConfigError(f"data.{key} gives {name} the weight {weight}; it must be a number of at least 0")


def check_batch(batch_size: int, patches_per_epoch: int, ranks: int = 1) -> None:
    """Raise `ConfigError` where an epoch cannot be shared by the ranks, or a rank's share is smaller than a batch."""
    if patches_per_epoch % ranks:
        fits = patches_per_epoch - patches_per_epoch % ranks + ranks
        raise ConfigError(
            f"data.patches_per_epoch={patches_per_epoch} cannot be shared by {ranks} ranks so that each has as many; "
            f"try {fits}"
        )
    if batch_size > patches_per_epoch // ranks:
        share = f", {patches_per_epoch // ranks} for each of {ranks} ranks" if ranks > 1 else ""
        raise ConfigError(
            f"data.batch_size={batch_size} is larger than an epoch of data.patches_per_epoch={patches_per_epoch}{share}"
        )


def background_of(batch: int, foreground_probability: float) -> int:
    """Return how many patches of a balanced batch need not lie on tumour; nnU-Net rounds these, not the others."""
    return round(batch * (1 - foreground_probability))


def check_balanced(foreground_probability: float, batch: int) -> None:
    """Raise `ConfigError` where a balanced batch is a single patch, or rounding leaves none of it on tumour."""
    on = batch - background_of(batch, foreground_probability)
    if 0 < foreground_probability < 1 and (on == 0 or batch == 1):
        raise ConfigError(
            f"data.balanced: with data.foreground_probability={foreground_probability}, {on} of the {batch} patches of "
            "every batch over all ranks would lie on tumour; raise data.batch_size, or leave balanced out"
        )
