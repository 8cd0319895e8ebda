"""How far from the centre of a patch the spatial transforms read, whatever their parameters."""

import math

import torch
import torchio as tio
from torch import Tensor

from raum_lightning.data.augment.kernels import Size
from raum_lightning.data.augment.spatial import RandomSpatial, rotation

STEP = 4.0
"""Degrees between the angles tried; between two a patch of 160 voxels extends less than 0.1 voxels further."""


def margin(transform: tio.Transform, roi_size: Size) -> Size:
    """Return the voxels to read beyond `roi_size` on each side, so that `transform` samples nothing beyond."""
    half = torch.tensor([(n - 1) / 2 for n in roi_size], dtype=torch.float64)
    x, y, z = (math.ceil(m - 1e-3) for m in (input_extent(transform, half) - half).tolist())
    return x, y, z


def input_extent(transform: tio.Transform, half: Tensor) -> Tensor:
    """Return half sizes, 3, in voxels, of the input box that the output box of `half` may be sampled from.

    Knows `RandomSpatial`, TorchIO's affine and elastic transforms, `Compose` and `OneOf`; takes others to read in
    place.
    """
    match transform:
        case tio.Compose():
            for part in reversed(transform.transforms):
                half = input_extent(part, half)
            return half
        case tio.OneOf():
            return torch.stack([input_extent(part, half) for part in transform.transforms_dict]).amax(0)
        case RandomSpatial():
            return _spatial(transform, half)
        case tio.RandomAffine():
            return _affine(transform, half)
        case tio.RandomElasticDeformation():
            return half + torch.tensor(transform.max_displacement)
        case tio.RandomAffineElasticDeformation():
            parts = [transform.random_affine, transform.random_elastic]
            return input_extent(tio.Compose(parts if transform.affine_first else parts[::-1]), half)
        case _:
            return half


def _spatial(transform: RandomSpatial, half: Tensor) -> Tensor:
    if transform.p_elastic > 0:
        half = transform.elastic_extent(half, torch.tensor(transform.max_displacement))
    if transform.p_affine > 0:
        half = _affine(transform, half)
    return half.amax().expand(3) if transform.turn_probability > 0 else half


def _affine(transform: tio.RandomAffine | RandomSpatial, half: Tensor) -> Tensor:
    """Return the larger of the box as it is and the box around every scaled, rotated and moved one."""
    low_high = torch.tensor(transform.degrees, dtype=torch.float64).view(3, 2)
    angles = [torch.linspace(a, b, 2 + int((b - a) / STEP)) for a, b in low_high.tolist()]
    back = rotation(torch.cartesian_prod(*angles)).mT.abs().double()
    smallest = torch.tensor(transform.scales[::2], dtype=torch.float64)
    shift = torch.tensor(transform.translation, dtype=torch.float64).view(3, 2).abs().amax(1)
    return torch.maximum(half, (back @ (half / smallest + shift)).amax(0))
