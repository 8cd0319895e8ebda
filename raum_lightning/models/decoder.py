"""The decoder of UNETR: residual blocks, and the skips and levels that are made of them.

The layers are those of MONAI's UNETR (https://github.com/Project-MONAI/MONAI, `monai/networks/blocks/unetr_block.py`).
`raum_lightning.models.cpu` computes the same in less time on a CPU.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from raum_lightning.errors import ConfigError

Norm = Callable[[int], nn.Module]
NormName = Literal["instance", "instance_affine", "batch", "group"]
# of group norm
GROUPS = 8


class Upsampling(nn.ConvTranspose3d):
    """A transposed convolution that doubles the voxels along each axis: B C X Y Z to B D 2X 2Y 2Z."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=2, stride=2, bias=False)


class ResidualBlock(nn.Module):
    """Two 3^3 convolutions with norm and LeakyReLU, added to the input: B C X Y Z to B D X/stride Y/stride Z/stride.

    Where the shapes differ, the input passes a convolution (1^3, or `stride`^3) and a norm before the addition.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: Norm, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = norm(out_channels)
        self.conv2 = nn.Conv3d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = norm(out_channels)
        self.act = nn.LeakyReLU(0.01, inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels or stride > 1:
            convolution = nn.Conv3d(in_channels, out_channels, stride, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, norm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """B C X Y Z to B D X/stride Y/stride Z/stride."""
        y = self.act(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        out: Tensor = self.act(y + self.shortcut(x))
        return out


class Skip(nn.Sequential):
    """From the tokens' map to a level of the decoder: an upsampling, then upsamplings each followed by a block.

    B E X Y Z to B D and each of X, Y and Z doubled `ups` times.
    """

    def __init__(self, embed_dim: int, channels: int, *, ups: int, norm: Norm) -> None:
        steps = (
            nn.Sequential(Upsampling(channels, channels), ResidualBlock(channels, channels, norm=norm))
            for _ in range(ups - 1)
        )
        super().__init__(Upsampling(embed_dim, channels), *steps)


class Level(nn.Module):
    """One level of the decoder: upsample the map from below, concatenate the skip, convolve."""

    def __init__(self, below_channels: int, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.up = Upsampling(below_channels, channels)
        self.block = ResidualBlock(2 * channels, channels, norm=norm)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """B C X/2 Y/2 Z/2 from below and B D X Y Z from the skip to B D X Y Z."""
        out: Tensor = self.block(torch.cat([self.up(below), skip], dim=1))
        return out


def choose_norm(name: str, channels: int, *, key: str = "feature_size") -> Norm:
    """Return the function that makes the norm of a number of channels, a multiple of `channels`.

    Names are "instance" (without weights), "instance_affine" (with them), "batch" or "group" (of 8 groups).

    Raises:
        ConfigError: `name` is another, or 8 groups do not divide `channels`, which the message calls `key`.
    """
    norms: dict[str, Norm] = {
        "instance": nn.InstanceNorm3d,
        "instance_affine": partial(nn.InstanceNorm3d, affine=True),
        "batch": nn.BatchNorm3d,
        "group": partial(nn.GroupNorm, GROUPS),
    }
    assert tuple(norms) == get_args(NormName)
    if name not in norms:
        raise ConfigError(f"norm={name!r} is none of {', '.join(norms)}")
    if name == "group" and channels % 8:
        raise ConfigError(f"{key}={channels} is not divisible by the 8 groups of norm='group'")
    return norms[name]
