"""Transforms whose random parameters are sampled first, from a seed, and applied after."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torchio as tio
from torch import Tensor

from raum_lightning.data.augment import kernels
from raum_lightning.data.augment.intensity import RandomIntensity
from raum_lightning.data.augment.kernels import Params, Size
from raum_lightning.data.augment.spatial import RandomSpatial

Step = tuple[RandomSpatial | RandomIntensity, Params]


def samplable(transform: tio.Transform) -> bool:
    """Return whether it is made of this package's transforms on all images, in `tio.Compose` and `tio.OneOf`."""
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
    """Sample in the order in which TorchIO does."""
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
    """What a transform does to one patch: those of its parts that are applied, with their parameters."""

    steps: Sequence[Step]

    @classmethod
    def sample(cls, transform: tio.Transform, *, channels: int, seed: int) -> "SampledTransform":
        """Return what a `samplable` transform does to an image of so many channels after `torch.manual_seed(seed)`."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs as well
            return cls(list(_steps(transform, channels)))

    def window(self, start: Sequence[int], roi_size: Size, shape: Sequence[int]) -> tuple[list[slice], list[float]]:
        """Return what to read of a volume of `shape` for the patch at `start`, and the `offset` to give to `apply`.

        Where the patch extends beyond the volume there is nothing to read, and `apply` puts 0.
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
        """Return the patch of `roi_size` of image C X Y Z and label 1 X Y Z: float32 and the label's type.

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
        """Return the sizes of the box to read and of the one that each step leaves to the next; the last is `roi_size`.

        They grow by as much on both sides, so that a centre on a voxel, or between two, stays there.
        """
        boxes = [list(roi_size)]
        for transform, params in reversed(self.steps):
            box = boxes[-1]
            if isinstance(transform, RandomSpatial):
                extent = transform.extent((torch.tensor(box) - 1) / 2, params)
                box = [n + 2 * math.ceil(h - (n - 1) / 2) for n, h in zip(roi_size, extent.tolist(), strict=True)]
            boxes.append(box)
        return boxes[::-1]
