"""Convolutions of maps lower than their kernel, whose gradient oneDNN computes wrongly on a CPU in bf16.

For a map of fewer slices along its first axis than the kernel has, such as 2^3 under 3^3, the gradient of the weight
holds whatever lay in memory, and memory that belongs to others is written to (seen with torch 2.13.0 on an AMD EPYC
with avx512_bf16; not with a single slice, and not in the gradient of the map). In float32 it is right, and maps this
small cost nothing. Many networks end in maps of 2^3, MONAI's SwinUNETR with patches of 64^3 among them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv3d(x: Tensor, weight: Tensor, bias: Tensor | None = None, **options: Any) -> Tensor:
    """`F.conv3d` of B C X Y Z with D C K K K, in float32 inside where 1 < X < K and the dtype has 16 bits."""
    dtype = _computed_in(x)
    if not 1 < x.shape[2] < weight.shape[2] or dtype.itemsize > 2 or x.device.type != "cpu":
        return F.conv3d(x, weight, bias, **options)
    with torch.autocast("cpu", enabled=False):
        y = F.conv3d(x.float(), weight.float(), None if bias is None else bias.float(), **options)
    return y.to(dtype)


def _computed_in(x: Tensor) -> torch.dtype:
    """Return the dtype in which a CPU would convolve `x`."""
    casts = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
    return torch.get_autocast_dtype("cpu") if casts else x.dtype


class Conv3d(nn.Conv3d):
    """`nn.Conv3d` by `conv3d`."""

    def forward(self, x: Tensor) -> Tensor:
        """B C X Y Z to B D X Y Z."""
        if self.padding_mode != "zeros":  # which pads before, to no less than the kernel
            return super().forward(x)
        options = {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}
        return conv3d(x, self.weight, self.bias, **options)
