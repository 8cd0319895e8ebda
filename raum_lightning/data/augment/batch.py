"""Augmentation of a batch on the device where it lies."""

from collections.abc import Sequence

import torch
import torchio as tio
from torch import Tensor

from raum_lightning.data.augment.kernels import Size
from raum_lightning.data.augment.sampled import SampledTransform, samplable
from raum_lightning.errors import ConfigError


class BatchAugmentation:
    """A transform on a batch, on the device where the batch lies.

    Each patch has its own seed and the parameters that `SampledTransform.sample` gives for it: only noise differs by
    kind of device. Nothing is read back from the device.

    Args:
        transform: One that is `samplable`.
        roi_size: X Y Z of the patches that come out, in voxels.
    """

    def __init__(self, transform: tio.Transform, *, roi_size: Size) -> None:
        if not samplable(transform):
            raise ConfigError(
                f"{transform} holds transforms that run on the CPU only; use those of raum_lightning.data.augment"
            )
        self.transform = transform
        self.roi_size = roi_size

    def __call__(
        self,
        images: Sequence[Tensor],
        labels: Sequence[Tensor],
        seeds: Sequence[int],
        offsets: Sequence[Sequence[float]] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return image B C X Y Z, float32, and label B X Y Z, of `roi_size`.

        `images` and `labels` are B of C X Y Z and of X Y Z, not necessarily of one size; `offsets` are those of
        `SampledTransform.apply`.
        """
        offsets = offsets or [(0, 0, 0)] * len(seeds)
        patches = [
            SampledTransform.sample(self.transform, channels=len(image), seed=seed).apply(
                image, label[None], self.roi_size, offset
            )
            for image, label, seed, offset in zip(images, labels, seeds, offsets, strict=True)
        ]
        return torch.stack([image for image, _ in patches]), torch.cat([label for _, label in patches])
