"""Augmentation of training patches: the transforms, and their draws for one patch or a batch, on CPU or GPU.

The transforms keep TorchIO's interface (`tio.Compose`, `tio.OneOf`, `p`, class_path in a YAML) and mix with TorchIO's
own. Called on a subject they do what TorchIO's do. A transform made of them alone can also be drawn first, from a seed,
and applied after, which is what the patch stream does: it then reads no more of a volume than this draw needs, and the
draw is the same wherever it is applied.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torchio as tio
from torch import Tensor

from raum_lightning.data.augment import kernels
from raum_lightning.data.augment.extent import margin
from raum_lightning.data.augment.intensity import (
    RandomBiasField,
    RandomBlur,
    RandomGamma,
    RandomIntensity,
    RandomNoise,
    RandomScaleShift,
)
from raum_lightning.data.augment.kernels import Params, Size
from raum_lightning.data.augment.spatial import RandomSpatial
from raum_lightning.errors import ConfigError

__all__ = [
    "BatchAugmentation",
    "RandomBiasField",
    "RandomBlur",
    "RandomGamma",
    "RandomNoise",
    "RandomScaleShift",
    "RandomSpatial",
    "SampledTransform",
    "default_augmentation",
    "margin",
    "samplable",
]

Step = tuple[RandomSpatial | RandomIntensity, Params]


def default_augmentation() -> tio.Compose:
    """What the shipped experiments use.

    Flips on three axes, scale and shift of intensity by up to 0.1 as in UNETR (arXiv:2103.10504) and its code;
    rotation, scaling, gamma and noise as in nnU-Net (10.1038/s41592-020-01008-z), with narrower ranges.
    """
    return tio.Compose(
        [
            RandomSpatial(flip_axes=(0, 1, 2), flip_probability=0.5, p_affine=0.5, degrees=15, scales=0.15),
            RandomGamma(log_gamma=0.3, p=0.3),
            RandomNoise(std=(0, 0.1), p=0.15),
            RandomScaleShift(scale=0.1, shift=0.1, p=0.5),
        ]
    )


def samplable(transform: tio.Transform) -> bool:
    """Whether it can be sampled: this package's transforms on all images, in `tio.Compose` and `tio.OneOf`."""
    match transform:
        case tio.Compose():
            return all(map(samplable, transform.transforms))
        case tio.OneOf():
            return all(map(samplable, transform.transforms_dict))
        case RandomSpatial() | RandomIntensity():
            return not (transform.include or transform.exclude or transform.keep)
        case _:
            return False


def _steps(transform: tio.Transform, channels: int) -> Iterator[Step]:
    """Draws in the order in which TorchIO does."""
    if torch.rand(1).item() > transform.probability:
        return
    match transform:
        case tio.Compose():
            for part in transform.transforms:
                yield from _steps(part, channels)
        case tio.OneOf():
            parts = transform.transforms_dict
            yield from _steps(list(parts)[torch.multinomial(torch.tensor(list(parts.values())), 1)], channels)
        case _:
            yield transform, transform.get_params(channels)


@dataclass(frozen=True)
class SampledTransform:
    """What a transform does to one patch: those of its parts that come to pass, with their parameters."""

    steps: Sequence[Step]

    @classmethod
    def sample(cls, transform: tio.Transform, *, channels: int, seed: int) -> "SampledTransform":
        """What a `samplable` transform does to an image of so many channels after `torch.manual_seed(seed)`."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs as well
            return cls(list(_steps(transform, channels)))

    def window(self, start: Sequence[int], roi_size: Size, shape: Sequence[int]) -> tuple[list[slice], list[float]]:
        """What to read of a volume of `shape` for the patch at `start`, and the `offset` to give to `apply`.

        Where the patch reaches beyond the volume there is nothing to read, and `apply` puts 0.
        """
        slices, offset = [], []
        for first, n, box, size in zip(start, roi_size, self._boxes(roi_size)[0], shape, strict=True):
            low = first - (box - n) // 2
            low, high = max(0, low), min(size, low + box)
            slices.append(slice(low, high))
            offset.append(first + n / 2 - (low + high) / 2)
        return slices, offset

    def apply(
        self, image: Tensor, label: Tensor, roi_size: Size, offset: Sequence[float] = (0, 0, 0)
    ) -> tuple[Tensor, Tensor]:
        """The patch of `roi_size` from image C X Y Z and label 1 X Y Z, on their device: float32 and the label's type.

        `offset` is the patch's centre in voxels from that of what was read.
        """
        for (transform, params), box in zip(self.steps, self._boxes(roi_size)[1:], strict=True):
            if isinstance(transform, RandomIntensity):
                image = transform.apply(image.float(), params)
            else:
                move = transform.mover(params, box, image.device, offset)
                image, label, offset = move(image, False), move(label, True), (0, 0, 0)
        return kernels.crop(image.float(), roi_size, offset), kernels.crop(label, roi_size, offset)

    def _boxes(self, roi_size: Size) -> list[list[int]]:
        """Sizes of the box to read and of the one that each step has to leave to the next; the last is `roi_size`.

        They grow by as much on both sides, so that a centre on a voxel, or between two, stays there.
        """
        boxes = [list(roi_size)]
        for transform, params in reversed(self.steps):
            box = boxes[-1]
            if isinstance(transform, RandomSpatial):
                reach = transform.reach((torch.tensor(box) - 1) / 2, params)
                box = [n + 2 * math.ceil(h - (n - 1) / 2) for n, h in zip(roi_size, reach.tolist(), strict=True)]
            boxes.append(box)
        return boxes[::-1]


class BatchAugmentation:
    """The draws of a transform on a batch, on the device where it lies.

    Each patch has its own seed and the transform that `SampledTransform.sample` gives it: only noise differs by kind of
    device. Nothing is read back from the device.
    """

    def __init__(self, transform: tio.Transform, *, roi_size: Size) -> None:
        if not samplable(transform):
            raise ConfigError(f"{transform} holds transforms that run on the CPU only; use those of {__name__}")
        self.transform = transform
        self.roi_size = roi_size

    def __call__(
        self,
        images: Sequence[Tensor],
        labels: Sequence[Tensor],
        seeds: Sequence[int],
        offsets: Sequence[Sequence[float]] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Image B C X Y Z, float32, and label B X Y Z, of `roi_size`.

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
