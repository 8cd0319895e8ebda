"""Random changes of intensity that keep TorchIO's interface and sample parameters apart from applying them."""

from abc import abstractmethod
from typing import Any, TypeAlias

import torch
import torchio as tio
from torch import Tensor
from torchio.transforms.augmentation import RandomTransform
from torchio.transforms.intensity_transform import IntensityTransform

from raum_lightning.data.augment import kernels
from raum_lightning.data.augment.kernels import Params
from raum_lightning.errors import ConfigError

Range: TypeAlias = float | tuple[float, float]


class RandomIntensity(RandomTransform, IntensityTransform):  # type: ignore[misc]  # TorchIO ships no types
    """A TorchIO intensity transform in two halves: `get_params` samples, `apply` computes, on any device.

    Whatever is random comes from torch's global CPU generator in `get_params`, so that parameters can be
    sampled again from a seed and applied elsewhere. Images passed in are not written to.
    """

    @abstractmethod
    def get_params(self, channels: int) -> Params:
        """Return parameters for an image of this many channels."""

    @abstractmethod
    def apply(self, image: Tensor, params: Params) -> Tensor:
        """Return C X Y Z, float32, on any device, changed as `params` say."""

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Sample for each intensity image of the subject, one after the other, and apply."""
        for image in self.get_images(subject):
            image.set_data(self.apply(image.data.float(), self.get_params(image.num_channels)))
        return subject


class RandomGamma(RandomIntensity):
    """sign(x) |x|^gamma with the logarithm of gamma uniform, one for each channel; as `tio.RandomGamma`.

    Args:
        log_gamma: Range of the logarithm; one number x means from -x to x.
        kwargs: See `tio.Transform`.
    """

    def __init__(self, *, log_gamma: Range = (-0.3, 0.3), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.log_gamma = self._parse_range(log_gamma, "log_gamma")

    def get_params(self, channels: int) -> Params:
        """Return "gamma", C."""
        return {"gamma": torch.empty(channels).uniform_(*self.log_gamma).exp_()}

    def apply(self, image: Tensor, params: Params) -> Tensor:
        """Return `kernels.gamma` of the image."""
        return kernels.gamma(image, params["gamma"])


class RandomScaleShift(RandomIntensity):
    """x (1 + s) + t with s and t uniform, one of each for each channel.

    TorchIO has no such transform; it is MONAI's `RandScaleIntensity` and `RandShiftIntensity` in one.

    Args:
        scale: Range of s; one number x means from -x to x.
        shift: Range of t, on z-scored images in standard deviations of the brain.
        kwargs: See `tio.Transform`.
    """

    def __init__(self, *, scale: Range = 0.1, shift: Range = 0.1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scale = self._parse_range(scale, "scale")
        self.shift = self._parse_range(shift, "shift")

    def get_params(self, channels: int) -> Params:
        """Return "scale" and "shift", C each."""
        return {
            "scale": 1 + torch.empty(channels).uniform_(*self.scale),
            "shift": torch.empty(channels).uniform_(*self.shift),
        }

    def apply(self, image: Tensor, params: Params) -> Tensor:
        """Return `kernels.scale_shift` of the image."""
        return kernels.scale_shift(image, params["scale"], params["shift"])


class RandomNoise(RandomIntensity):
    """Gaussian noise of random mean and standard deviation, the same for all channels; as `tio.RandomNoise`.

    The parameters hold a seed. Its noise has other values on a GPU than on a CPU.

    Args:
        mean: Range; one number x means from -x to x.
        std: Range; one number x means from 0 to x.
        kwargs: See `tio.Transform`.
    """

    def __init__(self, *, mean: Range = 0.0, std: Range = (0, 0.25), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = self._parse_range(mean, "mean")
        self.std = self._parse_range(std, "std", min_constraint=0)

    def get_params(self, channels: int) -> Params:
        """Return "mean", "std" and "seed", scalars."""
        return {
            "mean": torch.empty(()).uniform_(*self.mean),
            "std": torch.empty(()).uniform_(*self.std),
            "seed": torch.randint(2**31, ()),
        }

    def apply(self, image: Tensor, params: Params) -> Tensor:
        """Return `kernels.noise` of the image."""
        return kernels.noise(image, params["mean"].item(), params["std"].item(), int(params["seed"]))


class RandomBlur(RandomIntensity):
    """Gaussian blur of random width along each axis, in voxels; otherwise as `tio.RandomBlur`.

    The patch is mirrored at its border, as TorchIO mirrors the volume.

    Args:
        std: Range of the standard deviation along each axis, in voxels, or one number for each axis.
        kwargs: See `tio.Transform`.
    """

    def __init__(self, *, std: Range | tuple[float, float, float] = (0, 2), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.std = self.parse_params(std, None, "std", min_constraint=0)

    def get_params(self, channels: int) -> Params:
        """Return "std", one per axis."""
        return {"std": torch.tensor(self.sample_uniform_sextet(self.std))}

    def apply(self, image: Tensor, params: Params) -> Tensor:
        """Return `kernels.blur` of the image."""
        return kernels.blur(image, params["std"].tolist())


class RandomBiasField(RandomIntensity):
    """A smooth factor, the exponential of a random polynomial over the patch; as `tio.RandomBiasField`.

    The coils' factor belongs to the intensity as it was measured. Where images are z-scores, as in `data.normalise`,
    a factor on them leaves what is at the mean as it is; `brain_mean` gives back what normalisation took.

    Args:
        coefficients: Range of the polynomial's coefficients; one number x means from -x to x.
        order: Of the polynomial.
        brain_mean: Mean of the brain before normalisation, in its standard deviations: about 3 in BraTS 2018.
        each_channel: A factor of its own for each channel: sequences are measured one after the other.
        kwargs: See `tio.Transform`.
    """

    def __init__(
        self,
        *,
        coefficients: Range = 0.5,
        order: int = 3,
        brain_mean: float = 0.0,
        each_channel: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.coefficients = self._parse_range(coefficients, "coefficients")
        self.order = order
        self.brain_mean = brain_mean
        self.each_channel = each_channel
        if order < 0:
            raise ConfigError(f"order={order} of the bias field's polynomial must not be negative")

    def get_params(self, channels: int) -> Params:
        """Return "coefficients" of x^i y^j z^k, zero where i + j + k exceeds the order; C first with `each_channel`."""
        powers = torch.arange(self.order + 1)
        degree = powers[:, None, None] + powers[:, None] + powers
        shape = (channels, *degree.shape) if self.each_channel else degree.shape
        return {"coefficients": torch.empty(shape).uniform_(*self.coefficients) * (degree <= self.order)}

    def apply(self, image: Tensor, params: Params) -> Tensor:
        """Return `kernels.bias_field` of the image."""
        return kernels.bias_field(image, params["coefficients"], self.brain_mean)
