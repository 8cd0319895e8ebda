"""Intensities of MRI, which have no unit, brought to one scale: z-scores over the brain."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from raum_lightning.geometry import bounding_box, brain_mask


def normalise(image: NDArray[np.float32], keep: NDArray[np.bool_] | None = None) -> tuple[NDArray[np.float16], Any]:
    """Crops to the brain and z-scores every modality over it.

    `image` is C X Y Z; the brain is where any modality is not 0. `keep`, X Y Z, marks voxels that the crop must contain
    as well (a mask that reaches beyond the brain). Returns the crop, 0 outside the brain and nowhere else, and its
    slices along X, Y, Z.
    """
    brain = brain_mask(image)
    crop = bounding_box(brain if keep is None else brain | keep)
    image, brain = image[:, *crop], brain[crop]
    out = np.zeros(image.shape, np.float16)
    for source, target in zip(image, out, strict=True):
        values = source[brain]
        mean, std = values.mean(dtype=np.float64), values.std(dtype=np.float64)
        scores = ((values - mean) / max(std, 1e-6)).astype(np.float16)
        # exactly 0 means outside the brain: a voxel at the mean keeps the smallest normal number instead
        scores[scores == 0] = np.finfo(np.float16).tiny
        target[brain] = scores
    return out, crop
