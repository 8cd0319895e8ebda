"""Low resolution: a patch as it would be with larger voxels along each axis."""

from typing import Any

import torch
from torch import Tensor

from raum_lightning.data.augment import kernels
from raum_lightning.data.augment.intensity import RandomIntensity
from raum_lightning.data.augment.kernels import Params


class RandomLowResolution(RandomIntensity):
    """Sampled down by nearest neighbour and up again linearly, with a factor of its own along each axis.

    As nnU-Net's simulation of low resolution (10.1038/s41592-020-01008-z), there with one factor for all axes and
    cubic interpolation.

    Args:
        zoom: Range of the size along an axis, as a fraction of what it is.
        p_channel: Probability of each channel; the factors are the same for all of them.
        kwargs: See `tio.Transform`.
    """

    def __init__(self, *, zoom: tuple[float, float] = (0.5, 1.0), p_channel: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.zoom = self._parse_range(zoom, "zoom", min_constraint=0)
        self.p_channel = self.parse_probability(p_channel)

    def get_params(self, channels: int) -> Params:
        """Return "zoom", 3, and "channels", C: which are changed."""
        return {"zoom": torch.empty(3).uniform_(*self.zoom), "channels": torch.rand(channels) < self.p_channel}

    def apply(self, image: Tensor, params: Params) -> Tensor:
        """Return the image with some of its channels at a low resolution."""
        chosen = params["channels"].nonzero().flatten().tolist()
        if not chosen:
            return image
        changed = image.clone()
        changed[chosen] = low_resolution(image[chosen], params["zoom"].tolist())
        return changed


def low_resolution(image: Tensor, zoom: list[float]) -> Tensor:
    """Return C X Y Z sampled down to `zoom` times its size by nearest neighbour, and up again linearly."""
    weights = []
    for axis, factor in enumerate(zoom, start=1):
        size = image.shape[axis]
        small = max(1, round(size * factor))
        nearest = ((torch.arange(small) + 0.5) * (size / small)).floor().long()
        image = image.index_select(axis, nearest.to(image.device, non_blocking=True))
        weights.append(_linear(size, small).to(image.device, non_blocking=True))
    return kernels.separable(image, *weights)


def _linear(size: int, small: int) -> Tensor:
    """Return the weights of `small` voxels at `size` voxels between the same ends: size x small, rows sum to one."""
    where = ((torch.arange(size) + 0.5) * (small / size) - 0.5).clamp(0, small - 1)
    return (1 - (where[:, None] - torch.arange(small)).abs()).clamp(min=0)
