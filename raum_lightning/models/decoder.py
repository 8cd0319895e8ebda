"""What the decoder of UNETR is made of: upsampling, convolutions, residual blocks and their norms, for volumes.

The layers are those of MONAI's UNETR (https://github.com/Project-MONAI/MONAI, `monai/networks/blocks/unetr_block.py`);
they give the same numbers with less arithmetic and fewer passes over memory.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raum_lightning.errors import ConfigError

Norm = Callable[[int], nn.Module]


class InstanceNorm(nn.InstanceNorm3d):
    """Instance normalisation without weights; on the CPU by the kernel that is fastest for the memory's layout.

    ONNX gets its own operator for it: its layer norm would carry weights as large as the image.
    """

    def forward(self, x: Tensor) -> Tensor:
        """B C X Y Z to the same, each channel of each case with mean 0 and variance 1."""
        if x.device.type != "cpu" or torch.onnx.is_in_onnx_export():
            return super().forward(x)
        if x.is_contiguous():
            return F.layer_norm(x, x.shape[2:], eps=self.eps)
        if not torch.is_grad_enabled():
            return F.group_norm(x, x.shape[1], eps=self.eps)
        # with channels last, the gradient of group_norm takes ten times as long as that of batch_norm
        # without a weight in float32, mean and variance would be kept in bf16
        weight = x.new_ones(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
        cases = torch.split(x, 1) if len(x) > 1 else [x]
        normed = [F.batch_norm(case, None, None, weight, training=True, eps=self.eps) for case in cases]
        return torch.cat(normed) if len(x) > 1 else normed[0]


@dataclass(frozen=True)
class Upsampled:
    """What a transposed convolution makes of a map `below`, B C X Y Z, with `weight`, C D 2 2 2: not yet computed.

    What follows is linear too, so that a convolution of the upsampled map is one transposed convolution of the map
    below: 8 products for a voxel and a pair of channels instead of 27, and no upsampled map.
    """

    below: Tensor
    weight: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """B D 2X 2Y 2Z."""
        return self.below.shape[0], self.weight.shape[1], *(2 * size for size in self.below.shape[2:])

    def compute(self) -> Tensor:
        """The upsampled map."""
        return F.conv_transpose3d(self.below, self.weight, stride=2)

    def convolve(self, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """B E 2X 2Y 2Z: its convolution with E D K K K, K odd, that keeps the size."""
        width = kernel.shape[-1]
        # zeros around the map below are zeros around the upsampled one, which has no bias
        weight = F.conv3d(self.weight, kernel, padding=width - 1)
        return F.conv_transpose3d(self.below, weight, bias, stride=2, padding=width // 2)


Map = Tensor | Upsampled


def _computed(part: Map) -> Tensor:
    return part.compute() if isinstance(part, Upsampled) else part


class Upsampling(nn.ConvTranspose3d):
    """Twice as many voxels along each axis, a block of 2^3 from each."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=2, stride=2, bias=False)

    def forward(self, below: Map) -> Map:  # type: ignore[override]
        """B C X Y Z to B D 2X 2Y 2Z, put off where 3^3 convolutions to D channels gain from that.

        On a GPU it never is: that has not been measured.
        """
        up = Upsampled(_computed(below), self.weight)
        return up if up.below.is_cpu and self._pays(math.prod(up.shape[2:])) else up.compute()

    def _pays(self, voxels: int) -> bool:
        c, d = self.in_channels, self.out_channels
        one_by_one, at_once = c * d + 27 * d * d, 8 * c * d  # products for a voxel
        kernels = 8 * c * 27 * d * d
        # with its gradient, a product among kernels takes up to eight times as long as one in a map
        return voxels * (one_by_one - at_once) > 8 * kernels


def _convolve(part: Map, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """A map B C X Y Z convolved with D C K K K, K odd, to B D X Y Z of the same layout."""
    if isinstance(part, Upsampled):
        return part.convolve(kernel, bias)
    width = kernel.shape[-1]
    if width > 1 or not part.is_contiguous():
        return F.conv3d(part, kernel, bias, padding=width // 2)
    # the matrix product that it is
    matrix, voxels = kernel.flatten(1).expand(part.shape[0], -1, -1), part.flatten(2)
    y = torch.bmm(matrix, voxels) if bias is None else torch.baddbmm(bias[:, None], matrix, voxels)
    return y.view(part.shape[0], -1, *part.shape[2:])


class Convolution(nn.Conv3d):
    """A convolution with an odd kernel that keeps the size, over one map or over several as if they were concatenated.

    The sum of the convolutions of each saves the concatenation, and in the gradient taking it apart.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, bias: bool = False) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(self, *parts: Map) -> Tensor:
        """Maps B C X Y Z, whose C add up to the input's channels, to B D X Y Z in the same layout."""
        kernels = torch.split(self.weight, [part.shape[1] for part in parts], dim=1)
        total = _convolve(parts[0], kernels[0], self.bias)
        for part, kernel in zip(parts[1:], kernels[1:], strict=True):
            total += _convolve(part, kernel)
        return total


class Shortcut(nn.Sequential):
    """The input of a residual block brought to the number of channels of its output."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: Norm) -> None:
        super().__init__(Convolution(in_channels, out_channels, 1), norm(out_channels))

    def forward(self, *parts: Map) -> Tensor:
        """As `Convolution`."""
        convolution, norm = self
        out: Tensor = norm(convolution(*parts))
        return out


class ResidualBlock(nn.Module):
    """Two 3^3 convolutions with norm and LeakyReLU, added to the input.

    Where the numbers of channels differ, the input passes a 1^3 convolution and a norm before the addition.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.conv1 = Convolution(in_channels, out_channels, 3)
        self.norm1 = norm(out_channels)
        self.conv2 = Convolution(out_channels, out_channels, 3)
        self.norm2 = norm(out_channels)
        self.act = nn.LeakyReLU(0.01, inplace=True)
        same = in_channels == out_channels
        self.shortcut = None if same else Shortcut(in_channels, out_channels, norm=norm)

    def forward(self, *parts: Map) -> Tensor:
        """Maps B C X Y Z, whose C add up to the input's channels, to B D X Y Z."""
        y = self.act(self.norm1(self.conv1(*parts)))
        y = self.norm2(self.conv2(y))
        y += self.shortcut(*parts) if self.shortcut is not None else _computed(*parts)
        out: Tensor = self.act(y)
        return out


class Skip(nn.Sequential):
    """From tokens' map to a level of the decoder: an upsampling, then upsamplings each followed by a residual block."""

    def __init__(self, embed_dim: int, channels: int, *, ups: int, norm: Norm) -> None:
        steps = (
            nn.Sequential(Upsampling(channels, channels), ResidualBlock(channels, channels, norm=norm))
            for _ in range(ups - 1)
        )
        super().__init__(Upsampling(embed_dim, channels), *steps)

    def forward(self, tokens: Tensor) -> Tensor:
        """B E X Y Z to B D, and each of X, Y and Z doubled `ups` times."""
        part: Map = tokens
        for step in self:
            part = step(part)
        return _computed(part)


class Level(nn.Module):
    """One level of the decoder: upsample the map from below, join it with the skip, convolve."""

    def __init__(self, below_channels: int, channels: int, *, norm: Norm) -> None:
        super().__init__()
        self.up = Upsampling(below_channels, channels)
        self.block = ResidualBlock(2 * channels, channels, norm=norm)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """B C X/2 Y/2 Z/2 from below and B D X Y Z from the skip to B D X Y Z."""
        up = self.up(below)
        # contiguous maps cost less to concatenate than their convolutions to add
        at_once = isinstance(up, Tensor) and up.is_contiguous()
        out: Tensor = self.block(torch.cat([up, skip], dim=1)) if at_once else self.block(up, skip)
        return out


def choose_norm(name: str, feature_size: int) -> Norm:
    """What makes the norm of a number of channels: "instance", "batch" or "group" of 8.

    Raises `ValueError` for other names, and for a `feature_size` that 8 groups do not divide.
    """
    norms: dict[str, Norm] = {
        "instance": InstanceNorm,
        "batch": nn.BatchNorm3d,
        "group": partial(nn.GroupNorm, 8),
    }
    if name not in norms:
        raise ConfigError(f"norm={name!r} is none of {', '.join(norms)}")
    if name == "group" and feature_size % 8:
        raise ConfigError(f"feature_size={feature_size} is not divisible by the 8 groups of norm='group'")
    return norms[name]
