"""Weights of one UNETR for another: of other modalities, other classes, or another size of image.

    state, table = fit_weights(state, network, modalities=("flair", "t1ce"), trained_on=("flair", "t1ce", "t2"))
    network.load_state_dict(state)

Weights of MONAI's UNETR go through `raum_lightning.models.monai.from_monai` first.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from raum_lightning.errors import ConfigError
from raum_lightning.models.unetr import UNETR
from raum_lightning.models.unetr_v2 import UNETRV2

POSITIONS = "vit.pos_embed"
EMBEDDING = "vit.patch_embed.weight"
# convolutions that see the image
CONVOLUTIONS = ("skips.0", "stem.stages.0")


@dataclass(frozen=True)
class Table:
    """What became of each tensor.

    Args:
        taken: Names of those taken as they were.
        adapted: Names of those interpolated or brought to other modalities.
        new: Names that only the network has, or with another shape: they keep their initial values.
        left_over: Names that only the weights have, or with another shape.
    """

    taken: list[str] = field(default_factory=list)
    adapted: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)


def fit_weights(
    state: Mapping[str, Tensor],
    network: UNETR | UNETRV2,
    *,
    modalities: Sequence[str] = (),
    trained_on: Sequence[str] = (),
    img_size: Sequence[int] | None = None,
) -> tuple[dict[str, Tensor], Table]:
    """Return a state dict that `network` loads, made of another's `state`, and what became of each tensor.

    The layers that see the image take the weights of each modality by its name; a modality that was not trained on gets
    the mean of all that were. Positions are interpolated in three dimensions. What has another shape otherwise, such as
    the head of other classes, stays as `network` has it.

    Args:
        state: State dict of a UNETR or UNETRV2.
        network: Which it is to fit; is not changed.
        modalities: The network's channels, in their order.
        trained_on: The channels of `state`, in their order; both may be left out where they are the same.
        img_size: X, Y, Z in voxels that `state` was trained on; where not given that of `network` if it has as many
            positions, else a cube.

    Raises:
        ConfigError: No tensor fits, or what is left out is needed.
    """
    fitted, table = dict(network.state_dict()), Table()
    for name, own in fitted.items():
        given = state.get(name)
        if given is None:
            table.new.append(name)
            continue
        adapted = given
        if name == POSITIONS and given.shape[-1] == own.shape[-1] and (img_size or given.shape != own.shape):
            adapted = _interpolate(given, network, own.shape[1], img_size)
        elif _sees_image(name, network):
            adapted = _by_modality(given, own, modalities, trained_on, network.in_channels)
        if adapted.shape != own.shape:
            table.new.append(name)
            continue
        fitted[name] = adapted.to(own.dtype)
        (table.taken if adapted is given else table.adapted).append(name)
    table.left_over.extend(name for name in state if name not in table.taken + table.adapted)
    if not table.taken + table.adapted:
        raise ConfigError(f"none of the {len(state)} tensors fits the network; check that they are of a UNETR")
    return fitted, table


def _sees_image(name: str, network: UNETR | UNETRV2) -> bool:
    if name == EMBEDDING:
        return getattr(network, "stem", None) is None
    return name in {f"{block}.{part}.weight" for block in CONVOLUTIONS for part in ("conv1", "shortcut.0")}


def _by_modality(
    weight: Tensor, own: Tensor, modalities: Sequence[str], trained_on: Sequence[str], channels: int
) -> Tensor:
    """Return E (C v) or E C X Y Z for the channels that are wanted; of patches of another size as it is."""
    if tuple(modalities) == tuple(trained_on) and (weight.ndim < 3 or weight.shape[1] == channels):
        return weight
    if len(modalities) != channels or not trained_on:
        raise ConfigError(
            f"modalities={list(modalities)} and trained_on={list(trained_on)} must name each channel of the network "
            f"({channels}) and of the weights"
        )
    if weight.ndim != own.ndim or weight.shape[1] * channels != own.shape[1] * len(trained_on):
        return weight
    apart = rearrange(weight.flatten(1), "e (c v) -> e c v", c=len(trained_on))
    mean = apart.mean(dim=1)
    chosen = [apart[:, trained_on.index(name)] if name in trained_on else mean for name in modalities]
    inputs = weight.shape[1] // len(trained_on) * channels
    return torch.stack(chosen, dim=1).reshape(len(weight), inputs, *weight.shape[2:])


def _interpolate(positions: Tensor, network: UNETR | UNETRV2, patches: int, img_size: Sequence[int] | None) -> Tensor:
    """Return 1 N E for the network's patches, trilinearly."""
    count = positions.shape[1]
    before, now = _grid(img_size or (1, 1, 1), count), _grid(network.img_size, patches)
    if math.prod(before) != count:
        size = "a cube" if img_size is None else f"img_size={list(img_size)}"
        raise ConfigError(f"{count} positions are not those of {size}: give the trained size, `raum import --img-size`")
    if before == now:
        return positions
    x, y, z = before
    volume = rearrange(positions, "b (x y z) e -> b e x y z", x=x, y=y, z=z)
    return rearrange(F.interpolate(volume, now, mode="trilinear"), "b e x y z -> b (x y z) e")


def _grid(img_size: Sequence[int], patches: int) -> list[int]:
    """Return how many of the patches, which are cubes, lie along each axis of an image of these proportions."""
    edge = (math.prod(img_size) / patches) ** (1 / 3)
    return [round(size / edge) for size in img_size]
