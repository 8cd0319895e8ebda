"""Whether a network fits the data: its channels are the modalities, its outputs the classes or regions."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from raum_lightning.datasets import DataSet
from raum_lightning.errors import ConfigError


def outputs_of(dataset: DataSet, mode: str) -> tuple[str, ...]:
    """Return what the channels of logits are called: regions, or classes with the background."""
    return tuple(dataset.regions if mode == "regions" else dataset.classes)


def check_inputs(network: nn.Module, data: Any) -> int:
    """Return the number of channels that the network takes, where that and its size are those of the patches.

    Raises:
        ConfigError: `in_channels` or `img_size` of the network differ from modalities or roi_size of the data module.
    """
    channels: int = getattr(network, "in_channels", len(data.modalities))
    if channels != len(data.modalities):
        raise ConfigError(
            f"the network has in_channels={channels} but data.modalities are {len(data.modalities)}: "
            f"{', '.join(data.modalities)}"
        )
    size: Sequence[int] = getattr(network, "img_size", data.roi_size)
    if tuple(size) != tuple(data.roi_size):
        raise ConfigError(f"the network has img_size={list(size)} but data.roi_size={list(data.roi_size)}")
    return channels


def check_outputs(outputs: int, mode: str, dataset: DataSet, *, fewer: bool = False) -> None:
    """Raise `ConfigError` unless there is a channel for each class or region; with `fewer`, some may be missing."""
    names = outputs_of(dataset, mode)
    if outputs > len(names) or (outputs < len(names) and not fewer):
        raise ConfigError(
            f"the network has out_channels={outputs} but the {mode} of {dataset.name} need {len(names)}: "
            f"{', '.join(names)}"
        )
