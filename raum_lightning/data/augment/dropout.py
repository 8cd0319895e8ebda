"""Modality dropout: a network that has trained without a sequence now and then can do without it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raum_lightning.data.augment import kernels
from raum_lightning.data.augment.intensity import RandomIntensity
from raum_lightning.data.augment.kernels import Params
from raum_lightning.errors import ConfigError


class RandomModalityDropout(RandomIntensity):
    """Sets whole channels to 0, each with a probability of its own, never all of them.

    The network sees such a channel as it sees what lies outside the brain, 0 everywhere, while the other channels still
    show where the brain is. Where all would be 0, one stays, sampled by the probabilities to stay. Belongs behind all
    other transforms, which would add noise or a shift to the zeros.

    Args:
        probabilities: Of setting a channel to 0, in [0, 1), one for each channel.
        kwargs: See `tio.Transform`.
    """

    def __init__(self, *, probabilities: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.probabilities = tuple(probabilities)

    def get_params(self, channels: int) -> Params:
        """Return "kept", C: 1 for what stays and 0 for what does not; raise `ConfigError` for another number."""
        if len(self.probabilities) != channels:
            raise ConfigError(
                f"RandomModalityDropout: probabilities={list(self.probabilities)} are {len(self.probabilities)} for "
                f"{channels} channels; give one for each modality, in their order"
            )
        chances = torch.tensor(self.probabilities)
        kept = torch.rand(len(chances)) >= chances
        if not kept.any():
            kept[torch.multinomial(1 - chances, 1)] = True
        return {"kept": kept.float()}

    def apply(self, image: Tensor, params: Params) -> Tensor:
        """Return the image with 0 in the channels that do not stay."""
        return kernels.scale_shift(image, params["kept"], torch.zeros_like(params["kept"]))
