"""Where windows lie on a volume: pure functions on tensors.

An image is exactly 0 outside the brain, so only the brain's bounding box is visited, windows without brain are left
out, and the steps are evened out so that the last window does not repeat its neighbour's work. A box shorter than the
window is padded with zeros, which is what surrounds it anyway: a result depends neither on where in its volume the
brain lies nor on the other volumes of the batch.
"""

import math
from dataclasses import dataclass
from itertools import product

import torch

from raum_lightning.errors import ConfigError
from raum_lightning.geometry import Box, bounding_box, brain_mask

Triple = tuple[int, int, int]


def even_steps(length: int, roi: int, overlap: float) -> list[int]:
    """Return the first voxels of the fewest windows that cover `length` >= `roi` voxels, evenly spread.

    Neighbours share at least the fraction `overlap`.
    """
    # the small number undoes float errors such as 10 * (1 - 0.8) = 1.9999999999999996
    stride = max(1, int(roi * (1 - overlap) + 1e-6))
    gaps = math.ceil((length - roi) / stride)
    return [index * (length - roi) // max(gaps, 1) for index in range(gaps + 1)]


def window_starts(signal: torch.Tensor, *, roi_size: Triple, overlap: float = 0.5) -> list[Triple]:
    """Return the first voxels of the windows that hold brain, in a volume X Y Z bool at least as large as `roi_size`.

    Never empty: where there is no brain at all, one window still asks the network for its number of channels.
    """
    x, y, z = (even_steps(length, roi, overlap) for length, roi in zip(signal.shape, roi_size, strict=True))
    starts = list(product(x, y, z))
    return [start for start in starts if signal[region_of(start, roi_size)].any()] or starts[:1]


@dataclass(frozen=True)
class Visit:
    """How a network sees one volume: found once, however often it is then visited.

    `volume`, C x y z, is the box of the brain, padded to the window; `brain`, x y z boolean, is where it is not 0, and
    `starts` are the first voxels of the windows. `box` is where the brain lies in the volume before, `inside` where
    that box lies in the padded one.
    """

    volume: torch.Tensor
    brain: torch.Tensor
    starts: list[Triple]
    box: Box
    inside: Box


def plan(volume: torch.Tensor, *, roi_size: Triple, overlap: float = 0.5, brain: torch.Tensor | None = None) -> Visit:
    """Return how to visit C X Y Z; `brain`, X Y Z boolean, where it is known already.

    Raises:
        ConfigError: The window or the overlap makes no sense.
    """
    if len(roi_size) != 3 or min(roi_size) < 1:
        raise ConfigError(f"roi_size={roi_size} is not a window: give three positive numbers of voxels")
    if not 0 <= overlap < 1:
        raise ConfigError(f"overlap={overlap} is not in [0, 1): give the fraction that neighbouring windows share")
    mask = brain_mask(volume) if brain is None else brain
    box = bounding_box(mask)
    padded, inside = _pad(volume[:, *box], roi_size)
    around = _pad(mask[None, *box], roi_size)[0][0]
    return Visit(padded, around, window_starts(around, roi_size=roi_size, overlap=overlap), box, inside)


def count_windows(image: torch.Tensor, *, roi_size: Triple, overlap: float = 0.5) -> int:
    """Return how many windows `sliding_window` shows the network of images B C X Y Z."""
    return sum(len(plan(volume, roi_size=roi_size, overlap=overlap).starts) for volume in image)


def region_of(start: Triple, roi_size: Triple) -> Box:
    """Return the window of `roi_size` voxels that begins at `start`."""
    x, y, z = (slice(first, first + roi) for first, roi in zip(start, roi_size, strict=True))
    return x, y, z


def _pad(volume: torch.Tensor, roi_size: Triple) -> tuple[torch.Tensor, Box]:
    """Return zeros around C X Y Z up to `roi_size` at least, the odd one behind, and where the volume then lies.

    A volume that is large enough is returned as it is.
    """
    missing = [max(roi - length, 0) for length, roi in zip(volume.shape[1:], roi_size, strict=True)]
    sides = [side for gap in reversed(missing) for side in (gap // 2, gap - gap // 2)]
    x, y, z = (slice(gap // 2, gap // 2 + length) for gap, length in zip(missing, volume.shape[1:], strict=True))
    return torch.nn.functional.pad(volume, sides) if any(sides) else volume, (x, y, z)
