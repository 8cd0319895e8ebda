"""Transforms of TorchIO or of the user's own, which draw and act at once, on a patch and what lies around it."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torchio as tio

from raum_lightning.data.augment.extent import margin
from raum_lightning.data.augment.kernels import Size
from raum_lightning.errors import ConfigError

Volumes = tuple[torch.Tensor, torch.Tensor]
PARTS = ("image", "label")


class InOrder:
    """Runs a transform part by part on a volume cut around a patch.

    A part gets the patch with as much around it as that part and those after it read, so that one that looks at the
    whole of what it gets, such as a contrast about the mean, looks at the patch alone once nothing moves any more.
    A part that moves voxels, such as an elastic deformation, has its control points over the larger box.

    Args:
        transform: Of a subject of `image` and `label`.
        roi_size: X, Y, Z of the patch in voxels.
    """

    def __init__(self, transform: tio.Transform, roi_size: Size) -> None:
        plain = type(transform) is tio.Compose and transform.probability == 1
        parts = transform.transforms if plain else [transform]
        rests = [margin(tio.Compose(parts[number:]), roi_size) for number in range(len(parts) + 1)]
        self.roi_size, self.margin = roi_size, rests[0]
        self.steps = list(zip(parts, rests[1:], strict=True))

    def __call__(self, volume: torch.Tensor, mask: torch.Tensor, start: Sequence[int], seed: int) -> Volumes:
        """Return image C X Y Z float32 and label 1 X Y Z of the mask's dtype at `start`, which follow from `seed`.

        Raises:
            ConfigError: The transform leaves less than a patch, or more than one channel of the label.
        """
        image = read_box(volume, start, self.roi_size, self.margin).float()
        label = read_box(mask, start, self.roi_size, self.margin)
        subject = tio.Subject(image=tio.ScalarImage(tensor=image), label=tio.LabelMap(tensor=label))
        with torch.random.fork_rng(devices=[]):  # TorchIO samples from torch's global generator
            torch.default_generator.manual_seed(seed)
            with _others_seeded(seed):
                for part, rest in self.steps:
                    subject = part(subject)
                    for name in PARTS:
                        around = [n + 2 * m for n, m in zip(self.roi_size, rest, strict=True)]
                        subject[name].set_data(_centre(subject[name].data, around))
        image, label = subject["image"].data, subject["label"].data
        _check(image, label, self.roi_size)
        return image, label.to(mask.dtype)  # TorchIO's spatial transforms return float32, and others what they get


@contextmanager
def _others_seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python and NumPy for a while: a transform of the user's own may draw from them."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - such a transform draws from it
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def read_box(
    volume: torch.Tensor, start: Sequence[int], size: Sequence[int], margin: Sequence[int] = (0, 0, 0)
) -> torch.Tensor:
    """Return the box of `size` voxels at `start` and `margin` voxels around it, of C X Y Z; zeros beyond the volume."""
    wanted = [(first - m, first + n + m) for first, n, m in zip(start, size, margin, strict=True)]
    inside = [(max(0, a), min(b, n)) for (a, b), n in zip(wanted, volume.shape[1:], strict=True)]
    box = volume.new_zeros(len(volume), *(b - a for a, b in wanted))
    target = tuple(slice(a - first, max(a, b) - first) for (a, b), (first, _) in zip(inside, wanted, strict=True))
    box[:, *target] = volume[:, *(slice(a, max(a, b)) for a, b in inside)]
    return box


def _centre(volume: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Return the box of `size` in the middle of C X Y Z, or all along an axis that has less."""
    wanted = [min(have, want) for have, want in zip(volume.shape[1:], size, strict=True)]
    starts = [(have - want) // 2 for have, want in zip(volume.shape[1:], wanted, strict=True)]
    return volume[:, *(slice(start, start + n) for start, n in zip(starts, wanted, strict=True))].contiguous()


def _check(image: torch.Tensor, label: torch.Tensor, size: Sequence[int]) -> None:
    if len(label) != 1 or any(tuple(one.shape[1:]) != tuple(size) for one in (image, label)):
        shown = " and ".join(" x ".join(map(str, one.shape)) for one in (image, label))
        raise ConfigError(
            f"data.augmentation: image and label are {shown} (C X Y Z) after it, which holds no patch of "
            f"data.roi_size={list(size)} with one channel of classes; leave out what crops, resamples or encodes"
        )
    if not torch.equal(label, label.round()):
        raise ConfigError("data.augmentation: labels between classes after it; have it interpolate labels by nearest")
