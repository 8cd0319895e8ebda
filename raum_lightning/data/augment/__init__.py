"""Augmentation of training patches, on CPU or GPU.

The transforms keep TorchIO's interface (`tio.Compose`, `tio.OneOf`, `p`, class_path in a YAML) and mix with TorchIO's
own. Called on a subject they do what TorchIO's do. The parameters of a transform made of them alone can also be sampled
first, from a seed, and applied after, as the patch stream does: it then reads no more of a volume than these parameters
need, and they are the same on every device.
"""

from raum_lightning.data.augment.batch import BatchAugmentation
from raum_lightning.data.augment.contrast import RandomContrast, RandomInvertedGamma
from raum_lightning.data.augment.dropout import RandomModalityDropout
from raum_lightning.data.augment.extent import margin
from raum_lightning.data.augment.in_order import InOrder
from raum_lightning.data.augment.intensity import (
    RandomBiasField,
    RandomBlur,
    RandomGamma,
    RandomIntensity,
    RandomNoise,
    RandomScaleShift,
)
from raum_lightning.data.augment.presets import PRESETS, default_augmentation, light_augmentation, strong_augmentation
from raum_lightning.data.augment.resolution import RandomLowResolution
from raum_lightning.data.augment.sampled import SampledTransform, samplable
from raum_lightning.data.augment.spatial import RandomSpatial

__all__ = [
    "PRESETS",
    "BatchAugmentation",
    "InOrder",
    "RandomBiasField",
    "RandomBlur",
    "RandomContrast",
    "RandomGamma",
    "RandomIntensity",
    "RandomInvertedGamma",
    "RandomLowResolution",
    "RandomModalityDropout",
    "RandomNoise",
    "RandomScaleShift",
    "RandomSpatial",
    "SampledTransform",
    "default_augmentation",
    "light_augmentation",
    "margin",
    "samplable",
    "strong_augmentation",
]
