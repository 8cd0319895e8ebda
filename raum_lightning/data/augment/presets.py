"""Augmentation by name."""

import torchio as tio

from raum_lightning.data.augment.intensity import RandomGamma, RandomNoise, RandomScaleShift
from raum_lightning.data.augment.spatial import RandomSpatial


def default_augmentation() -> tio.Compose:
    """Return what the shipped experiments use.

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
