"""Modality dropout: a network that has trained without a sequence now and then can do without it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from raum_lightning.data.absent import StandIns, fill_absent
from raum_lightning.data.augment.intensity import RandomIntensity
from raum_lightning.data.augment.kernels import Params
from raum_lightning.errors import ConfigError


class RandomModalityDropout(RandomIntensity):
    """Takes whole channels away, each with a probability of its own, never all of them.

    In its place the network sees 0 everywhere, as outside the brain, or a copy of another channel, as `fill_absent`
    says. Where all would be taken away, one stays, sampled by the probabilities to stay. Belongs behind all other
    transforms, which would add noise or a shift to the zeros.

    Args:
        probabilities: Of taking a channel away, in [0, 1), one for each channel.
        stand_ins: For each channel the one that is copied into its place; None, and where not given, for 0.
        kwargs: See `tio.Transform`.

    Raises:
        ConfigError: `stand_ins` are not one for each channel, or name a channel that there is not.
    """

    def __init__(self, *, probabilities: Sequence[float], stand_ins: StandIns | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.probabilities = tuple(probabilities)
        channels = len(self.probabilities)
        self.stand_ins = stand_ins or [None] * channels
        if len(self.stand_ins) != channels or not {*self.stand_ins} <= {None, *range(channels)}:
            raise ConfigError(
                f"RandomModalityDropout: stand_ins={list(self.stand_ins)} must be null or a channel from 0 to "
                f"{channels - 1} for each of the {channels} probabilities"
            )

    def get_params(self, channels: int) -> Params:
        """Return "kept", C booleans: what stays; raise `ConfigError` for another number of channels."""
        if len(self.probabilities) != channels:
            raise ConfigError(
                f"RandomModalityDropout: probabilities={list(self.probabilities)} are {len(self.probabilities)} for "
                f"{channels} channels; give one for each modality, in their order"
            )
        chances = torch.tensor(self.probabilities)
        kept = torch.rand(len(chances)) >= chances
        if not kept.any():
            kept[torch.multinomial(1 - chances, 1)] = True
        return {"kept": kept}

    def apply(self, image: Tensor, params: Params) -> Tensor:
        """Return the image with what takes the place of the channels that do not stay."""
        kept = params["kept"].tolist()
        if all(kept):
            return image
        image = image.clone()
        fill_absent(image, kept, self.stand_ins)
        return image
