"""Whether a network fits the data: its channels are the modalities, its outputs the classes or regions."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from raum_lightning.datasets import IGNORED, DataSet
from raum_lightning.errors import ConfigError
from raum_lightning.losses import DiceCELoss
from raum_lightning.training.first_patch import check_loss, output_channels
from raum_lightning.training.whole_volumes import WholeVolumeModule


def check_fit(module: WholeVolumeModule, data: Any, *, fitting: bool) -> None:
    """Check by one made-up patch, without values, that network and loss fit the data (a `BratsDataModule`).

    Raises:
        ConfigError: They do not. Where not `fitting` neither outputs nor loss are looked at.
    """
    network = module.network
    channels = check_inputs(network, data)
    if network._compiled_call_impl is not None:
        return  # compiled after it was checked
    training = {"data.roi_size": data.roi_size} if fitting else {}
    windows = {"module.roi_size": module.windows["roi_size"]}
    # the command line checks before it prepares cases, and `setup` again
    if (question := (network, channels, windows, training)) != module.checked[0]:
        module.checked = question, output_channels(*question)
    outputs = module.checked[1]
    if isinstance(outputs, str):
        rank_zero_info(f"{type(network).__name__} cannot be checked before the first step ({outputs})")
    elif fitting:
        check_outputs(outputs, module.mode, data.dataset)
        check_ignored(module.loss, data.dataset)
        check_loss(module.loss, outputs, module.as_targets)


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
    if tuple(size) != tuple(data.roi_size) and not getattr(network, "any_size", False):
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


def check_classes(trained: Sequence[str], dataset: DataSet) -> None:
    """Raise `ConfigError` where a mask of the data set has other classes in the places of those that were trained."""
    shared = min(len(trained), len(dataset.classes))
    if tuple(trained[:shared]) != dataset.classes[:shared]:
        raise ConfigError(
            f"the checkpoint was trained on the classes {', '.join(trained[1:])}, those of {dataset.name} are "
            f"{', '.join(dataset.classes[1:])}: write masks with `raum segment` and score them with `raum evaluate`"
        )


def check_ignored(loss: nn.Module, dataset: DataSet) -> None:
    """Raise `ConfigError` where the loss would count voxels that the data set ignores."""
    if dataset.ignore is None or isinstance(loss, DiceCELoss) or getattr(loss, "ignore_index", None) == IGNORED:
        return
    raise ConfigError(
        f"{dataset.name} ignores voxels of value {dataset.ignore}, which {type(loss).__name__} would count; "
        f"give module.loss DiceCELoss, or one with ignore_index: {IGNORED}"
    )
