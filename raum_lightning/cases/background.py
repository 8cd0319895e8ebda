"""The background: set to exactly 0, whatever a data set has there."""

from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

NOISE = 0.01
"""Of the bright end of an image: what is smaller is noise where the background is noisy."""

SHARE = 0.01
"""Of the voxels on the six faces of a volume that must be so small before its background is called noisy."""


def clear_background(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return X Y Z with exactly 0 where a spline or a rounded header left a background of, say, 0 +- 1e-4.

    The brain is what is not 0, so such a background would count as brain. It is noisy where more than `SHARE` of the
    voxels on the faces of the volume are not 0 but smaller than `NOISE` times the 99.5th percentile, and fewer are
    larger, as where the brain is cut off. An image whose background is 0 is returned as it is.
    """
    faces = np.abs(
        np.concatenate([np.moveaxis(image, axis, 0)[side].ravel() for axis, side in product(range(3), (0, -1))])
    )
    if np.count_nonzero(faces) <= SHARE * faces.size:
        return image
    bound = NOISE * np.percentile(np.abs(image), 99.5)
    small, large = np.count_nonzero((faces > 0) & (faces <= bound)), np.count_nonzero(faces > bound)
    if small <= SHARE * faces.size or small <= large:
        return image
    return np.where(np.abs(image) <= bound, np.float32(0), image)


def cut_out(image: NDArray[np.float32], background: float | str, brain: NDArray[np.float32] | None = None) -> None:
    """Set what is outside the brain, or with skull outside the head, to 0 in X Y Z, and nothing else.

    `background` is the value outside; `none` for scans with skull, of which `find_head` takes the head; or the pattern
    of brain masks, of which `brain` is this case's. A voxel of 0 inside becomes the smallest number above it.
    """
    inside = brain != 0 if brain is not None else find_head(image) if background == "none" else image != background
    image[inside & (image == 0)] = np.finfo(np.float32).tiny
    image[~inside] = 0


def find_head(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return where the head is in a scan with skull, X Y Z.

    It is the largest connected part above half of Otsu's threshold, which parts the intensities up to their 99.5th
    percentile with the least variance within both parts, and what that part encloses in the volume or in any slice.
    """
    top = float(np.percentile(image, 99.5))
    counts, edges = np.histogram(image.clip(max=top), 256)
    middles = (edges[:-1] + edges[1:]) / 2
    below, sums = counts.cumsum(), (counts * middles).cumsum()
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    threshold = middles[int(np.nanargmax(between))]
    low = float(image.min())
    parts, count = ndimage.label(image > low + (threshold - low) / 2)
    if not count:
        return np.ones(image.shape, bool)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    head = ndimage.binary_fill_holes(parts == sizes.argmax())
    enclosed = head.copy()
    for axis in range(3):
        for number, plane in enumerate(np.moveaxis(head, axis, 0)):
            np.moveaxis(enclosed, axis, 0)[number] |= ndimage.binary_fill_holes(plane)
    filled: NDArray[np.bool_] = enclosed
    return filled
