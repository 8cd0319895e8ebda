"""Flips, rotations by 90 degrees, affine and elastic deformation in one sampling, with TorchIO's interface."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torchio as tio
from torch import Tensor
from torchio.transforms.augmentation import RandomTransform
from torchio.transforms.spatial_transform import SpatialTransform

from raum_lightning.data.augment import kernels
from raum_lightning.data.augment.kernels import Params
from raum_lightning.errors import ConfigError

Triple: TypeAlias = tuple[float, float, float]
Range: TypeAlias = float | tuple[float, float] | Triple | tuple[float, float, float, float, float, float]


class RandomSpatial(RandomTransform, SpatialTransform):  # type: ignore[misc]  # TorchIO ships no types
    """Flips, rotations by 90 degrees, affine and elastic deformation, composed and sampled once.

    As `tio.RandomFlip`, then `tio.RandomAffine`, then `tio.RandomElasticDeformation` with the same names and ranges,
    along the axes of the volume and in voxels. Images are interpolated linearly, labels by nearest neighbour, and what
    lies outside is 0. Flips and rotations by 90 degrees alone move voxels and do not interpolate.

    Args:
        flip_axes: Axes, of 0, 1 and 2, each of which is flipped with `flip_probability`.
        flip_probability: Of each flip.
        turn_probability: Of a rotation by 90, 180 or 270 degrees in a random plane.
        p_affine: Probability of scaling, rotation and translation.
        scales: Enlarging above 1; one number x means from 1 - x to 1 + x, three one for each axis.
        degrees: Around each axis; one number x means from -x to x.
        translation: Voxels; one number x means from -x to x.
        isotropic: One scale for the three axes.
        p_elastic: Probability of the elastic deformation.
        max_displacement: Voxels, of each control point along each axis; 0 for no deformation.
        num_control_points: Along each axis, spanning the output.
        locked_borders: How many layers of control points do not move: 0, 1 or 2.
        kwargs: See `tio.Transform`.
    """

    def __init__(
        self,
        *,
        flip_axes: tuple[int, ...] = (0, 1, 2),
        flip_probability: float = 0.5,
        turn_probability: float = 0.0,
        p_affine: float = 1.0,
        scales: Range = 0.15,
        degrees: Range = 15.0,
        translation: Range = 0.0,
        isotropic: bool = False,
        p_elastic: float = 1.0,
        max_displacement: float | Triple = 0.0,
        num_control_points: int = 7,
        locked_borders: int = 2,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.flip_axes = flip_axes
        self.flip_probability = self.parse_probability(flip_probability)
        self.turn_probability = self.parse_probability(turn_probability)
        self.p_affine = self.parse_probability(p_affine)
        self.scales = self.parse_params(scales, 1, "scales", min_constraint=0)
        self.degrees = self.parse_params(degrees, 0, "degrees")
        self.translation = self.parse_params(translation, 0, "translation")
        self.isotropic = isotropic
        self.p_elastic = self.parse_probability(p_elastic)
        self.max_displacement = self.parse_params(max_displacement, None, "max_displacement", make_ranges=False)
        self.num_control_points = num_control_points
        self.locked_borders = locked_borders
        if not set(flip_axes) <= {0, 1, 2}:
            raise ConfigError(f"flip_axes={flip_axes} must be among 0, 1 and 2")
        if locked_borders not in (0, 1, 2):
            raise ConfigError(f"locked_borders={locked_borders} must be 0, 1 or 2")
        if num_control_points < 4 + (locked_borders == 2):
            raise ConfigError(f"num_control_points={num_control_points} is too few; give 5 or more")

    def get_params(self, channels: int = 1) -> Params:
        """Return, for any `channels`, "permutation", 3 3, and perhaps "affine", 3 4, and "displacement", 3 K K K."""
        params = {"permutation": self._sample_permutation()}
        if torch.rand(()) < self.p_affine:
            scales = self.sample_uniform_sextet(self.scales)
            scales = scales[:1] * 3 if self.isotropic else scales
            degrees, translation = map(self.sample_uniform_sextet, (self.degrees, self.translation))
            params["affine"] = affine(scales, degrees, translation)
        if any(self.max_displacement) and torch.rand(()) < self.p_elastic:
            params["displacement"] = self._sample_displacement()
        return params

    def _sample_permutation(self) -> Tensor:
        flips = torch.rand(3) < self.flip_probability
        matrix = torch.diag(torch.tensor([-1.0 if a in self.flip_axes and flips[a] else 1.0 for a in range(3)]))
        if torch.rand(()) < self.turn_probability:
            degrees = torch.zeros(3)
            degrees[torch.randint(3, ())] = 90.0 * torch.randint(1, 4, ())
            matrix = matrix @ rotation(degrees).round()
        return matrix

    def _sample_displacement(self) -> Tensor:
        count, locked = self.num_control_points, self.locked_borders
        displacement = torch.rand(3, count, count, count) * 2 - 1
        displacement *= torch.tensor(self.max_displacement).view(3, 1, 1, 1)
        free = torch.zeros(count)
        free[locked : count - locked] = 1
        return displacement * free[:, None, None] * free[:, None] * free

    def extent(self, half: Tensor, params: Params) -> Tensor:
        """Return half the box that is read about the centre, for half the box that is written: 3, in voxels."""
        if "displacement" in params:
            half = self.elastic_extent(half, params["displacement"].abs().amax((1, 2, 3)))
        if "affine" in params:
            matrix = params["affine"].abs()
            half = matrix[:, :3] @ half + matrix[:, 3]
        return params["permutation"].abs() @ half

    def elastic_extent(self, half: Tensor, largest: Tensor) -> Tensor:
        """Return the same for a deformation by at most `largest`, 3, alone.

        The weights of the free control points sum to `share` at a face and grow by at most 3/4 from there to one cell
        further in, so that what moves less than a cell comes from no further out than what lies on the face.
        """
        share = (1, 5 / 6, 1 / 6)[self.locked_borders]
        cell = (2 * half + 1) / (self.num_control_points - 3)
        return half + largest * torch.where(largest <= cell, share, 1.0)

    def mover(
        self, params: Params, out_size: Sequence[int], device: torch.device, offset: Sequence[float] = (0, 0, 0)
    ) -> Callable[[Tensor, bool], Tensor]:
        """Return a function of a volume, C X Y Z, and of whether it holds labels, that returns C and `out_size`.

        `offset` is the point, in voxels from the volume's centre, that `params` take for the centre.
        """
        if "affine" not in params and "displacement" not in params:
            return lambda volume, _: kernels.permute(volume, params["permutation"], out_size, offset)
        matrix = params["permutation"] @ params.get("affine", torch.eye(3, 4))
        matrix[:, 3] += torch.tensor(offset)
        points = kernels.coordinates(matrix, params.get("displacement"), out_size, device)
        return lambda volume, labels: (kernels.sample_nearest if labels else kernels.sample_linear)(volume, points)

    def apply_transform(self, subject: tio.Subject) -> tio.Subject:
        """Move all images of the subject by the same parameters."""
        subject.check_consistent_spatial_shape()
        move = self.mover(self.get_params(), subject.spatial_shape, torch.device("cpu"))
        for image in self.get_images(subject):
            labels = isinstance(image, tio.LabelMap)
            image.set_data(move(image.data if labels else image.data.float(), labels))
        return subject


def rotation(degrees: Tensor) -> Tensor:
    """Return rotation matrices, ... 3 3, of angles about the axes, ... 3: y first, then x, then z, as TorchIO's."""
    cos, sin = torch.cos(torch.deg2rad(degrees)), torch.sin(torch.deg2rad(degrees))
    matrix = torch.eye(3, dtype=degrees.dtype)
    for axis in (1, 0, 2):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        about = torch.zeros(*degrees.shape, 3, dtype=degrees.dtype)
        about[..., axis, axis] = 1
        about[..., i, i] = about[..., j, j] = cos[..., axis]
        about[..., i, j], about[..., j, i] = -sin[..., axis], sin[..., axis]
        matrix = about @ matrix
    return matrix


def affine(scales: Triple, degrees: Triple, translation: Triple) -> Tensor:
    """Return [A | t], 3 4, from output to input offsets, of what rotates the input, moves it and then scales it."""
    back = rotation(torch.tensor(degrees)).T
    linear = back / torch.tensor(scales)
    return torch.cat([linear, -back @ torch.tensor(translation)[:, None]], dim=1)
