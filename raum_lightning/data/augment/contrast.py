"""Contrast and inverted gamma, as nnU-Net's (10.1038/s41592-020-01008-z) `batchgenerators` defines them."""

from typing import Any

import torch
from torch import Tensor

from raum_lightning.data.augment.intensity import RandomIntensity, Range
from raum_lightning.data.augment.kernels import Params

EPSILON = 1e-6


class RandomContrast(RandomIntensity):
    """(x - mean) f + mean, clipped to the range that x has, with f uniform, one for each channel.

    Args:
        factor: Range of f.
        kwargs: See `tio.Transform`.
    """

    def __init__(self, *, factor: tuple[float, float] = (0.75, 1.25), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = self._parse_range(factor, "factor", min_constraint=0)

    def get_params(self, channels: int) -> Params:
        """Return "factor", C."""
        return {"factor": torch.empty(channels).uniform_(*self.factor)}

    def apply(self, image: Tensor, params: Params) -> Tensor:
        """Return the image with its contrast changed, mean and range those of each channel of the patch."""
        mean = image.mean((1, 2, 3), keepdim=True)
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        factor = params["factor"].to(image.device, non_blocking=True).view(-1, 1, 1, 1)
        return torch.lerp(mean, image, factor).clamp(low, high)


class RandomInvertedGamma(RandomIntensity):
    """The gamma curve of the inverted image: bright values are spread or pressed together instead of dark ones.

    With u = (max - x) / (max - min), a channel becomes max - (max - min) u^gamma, scaled and shifted so that it keeps
    its mean and standard deviation.

    Args:
        log_gamma: Range of the logarithm of gamma, one for each channel; one number x means from -x to x.
        kwargs: See `tio.Transform`.
    """

    def __init__(self, *, log_gamma: Range = (-0.36, 0.41), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.log_gamma = self._parse_range(log_gamma, "log_gamma")

    def get_params(self, channels: int) -> Params:
        """Return "gamma", C."""
        return {"gamma": torch.empty(channels).uniform_(*self.log_gamma).exp_()}

    def apply(self, image: Tensor, params: Params) -> Tensor:
        """Return the image with the curve applied, range, mean and deviation those of each channel of the patch."""
        low, high = image.amin((1, 2, 3), keepdim=True), image.amax((1, 2, 3), keepdim=True)
        gamma = params["gamma"].to(image.device, non_blocking=True).view(-1, 1, 1, 1)
        curved = -((high - image) / (high - low + EPSILON)).pow_(gamma)
        mean, wanted = (each.mean((1, 2, 3), keepdim=True) for each in (curved, image))
        deviation, target = (each.std((1, 2, 3), correction=0, keepdim=True) for each in (curved, image))
        return (curved - mean).mul_(target / (deviation + EPSILON)).add_(wanted)
