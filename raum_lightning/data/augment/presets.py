"""Augmentation by name: light, default, strong."""

from collections.abc import Callable, Mapping, Sequence

import torchio as tio

from raum_lightning.data.absent import StandIns
from raum_lightning.data.augment.contrast import RandomContrast, RandomInvertedGamma
from raum_lightning.data.augment.dropout import RandomModalityDropout
from raum_lightning.data.augment.intensity import RandomBlur, RandomGamma, RandomNoise, RandomScaleShift
from raum_lightning.data.augment.resolution import RandomLowResolution
from raum_lightning.data.augment.spatial import RandomSpatial
from raum_lightning.data.option_checks import check_names
from raum_lightning.errors import ConfigError


def light_augmentation() -> tio.Compose:
    """Return what UNETR (arXiv:2103.10504) and its code use: flips, rotations by 90 degrees, scale and shift."""
    return tio.Compose(
        [
            RandomSpatial(flip_axes=(0, 1, 2), flip_probability=0.5, turn_probability=0.1, p_affine=0),
            RandomScaleShift(scale=0.1, shift=0.1, p=0.5),
        ]
    )


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


def strong_augmentation() -> tio.Compose:
    """Return the transforms of nnU-Net (10.1038/s41592-020-01008-z), scaling by .65 to 1.6 as its BraTS 2020 entry."""
    return tio.Compose(
        [
            RandomSpatial(flip_axes=(0, 1, 2), p_affine=0.4, degrees=30, scales=(0.65, 1.6), isotropic=True),
            RandomNoise(std=(0, 0.3), p=0.1),
            RandomBlur(std=(0.5, 1), p=0.2),
            RandomScaleShift(scale=0.25, shift=0, p=0.15),
            RandomContrast(factor=(0.75, 1.25), p=0.15),
            RandomLowResolution(zoom=(0.5, 1), p=0.25),
            RandomInvertedGamma(log_gamma=(-0.36, 0.41), p=0.1),
            RandomGamma(log_gamma=(-0.36, 0.41), p=0.3),
        ]
    )


PRESETS: dict[str, Callable[[], tio.Compose]] = {
    "light": light_augmentation,
    "default": default_augmentation,
    "strong": strong_augmentation,
}


def build_transform(
    augmentation: Sequence[tio.Transform] | tio.Transform | str | bool | None,
    dropout: Mapping[str, float],
    modalities: Sequence[str],
    stand_ins: StandIns | None = None,
) -> tio.Transform | None:
    """Return data.augmentation and data.modality_dropout as one transform, or None where nothing is to be done.

    `stand_ins` are those of `RandomModalityDropout`.

    Raises:
        ConfigError: For an unknown name, and for a modality or a probability that cannot be used.
    """
    if isinstance(augmentation, str) and augmentation not in PRESETS:
        raise ConfigError(f"data.augmentation={augmentation} must be one of {', '.join(PRESETS)}, or transforms")
    if isinstance(augmentation, bool):
        augmentation = "default" if augmentation else ()
    given = PRESETS[augmentation]() if isinstance(augmentation, str) else augmentation
    parts = [given] if isinstance(given, tio.Transform) else list(given or ())
    if isinstance(given, tio.Compose) and given.probability == 1:
        parts = list(given.transforms)
    _check_names(parts)
    if dropout:
        check_names("modality_dropout", list(dropout), modalities)
        for name, probability in dropout.items():
            if not 0 <= probability < 1:
                raise ConfigError(
                    f"data.modality_dropout gives {name} the probability {probability}; it must be in [0, 1)"
                )
        chances = [dropout.get(name, 0.0) for name in modalities]
        parts.append(RandomModalityDropout(probabilities=chances, stand_ins=stand_ins))
    return tio.Compose(parts) if parts else None


def _check_names(parts: Sequence[tio.Transform]) -> None:
    """Raise `ConfigError` for a transform of images that a patch has not, which would act on all or none."""
    for part in parts:
        if isinstance(part, (tio.Compose, tio.OneOf)):
            _check_names(part.transforms if isinstance(part, tio.Compose) else list(part.transforms_dict))
        for key in ("include", "exclude", "keep"):
            named = getattr(part, key, None) or []
            if unknown := [str(name) for name in named if name not in ("image", "label")]:
                raise ConfigError(
                    f"data.augmentation: {type(part).__name__}.{key} names {', '.join(unknown)}; a patch has image, "
                    "all modalities together, and label"
                )
