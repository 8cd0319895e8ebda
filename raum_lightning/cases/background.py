"""The noise that resampling leaves around a skull-stripped brain."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

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
