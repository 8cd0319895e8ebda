"""Which case a patch comes from and where it lies in it."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from raum_lightning.data.augment.kernels import Size
from raum_lightning.data.store import Prepared
from raum_lightning.errors import ConfigError
from raum_lightning.labels import CLASSES

STEPS = 2**20
"""Fractions of a slot that are told apart, few enough for exact sums: with equal weights each case fills one slot."""


class CaseOrder:
    """The case at every position of an endless stream.

    The stream is cut into turns of as many positions as there are cases. In each turn a case comes up as often as its
    share of the weights says, rounded up or down by chance so that the mean is exact, and in an order drawn anew:
    with equal weights once, otherwise by systematic sampling.
    """

    def __init__(self, weights: Sequence[float], *, seed: int) -> None:
        scaled = np.asarray(weights, np.float64)
        if not (scaled >= 0).all() or not 0 < scaled.sum() < np.inf:
            raise ConfigError("data.case_weights must not be negative, and some training case needs one above 0")
        self.edges = np.cumsum(scaled * len(scaled) / scaled.sum())[:-1]
        self.length = len(scaled)
        self.seed = seed

    def __call__(self, position: int) -> int:
        """Index of the case."""
        turn, place = divmod(position, self.length)
        rng = np.random.default_rng((self.seed, turn))
        slot = rng.permutation(self.length)[place]
        return int(np.searchsorted(self.edges, slot + rng.integers(STEPS) / STEPS, side="right"))


class PatchPlaces:
    """Where in a case the patch lies.

    With `foreground_probability` the patch is centred on a tumour voxel, drawn evenly over the voxels, or, given
    `class_weights`, evenly over those of a class drawn before among the classes that the case has; a case with none
    of the weighted classes is drawn from as without weights. The other patches lie anywhere in the volume.
    """

    def __init__(
        self, roi_size: Size, *, foreground_probability: float, class_weights: Mapping[str, float] | None = None
    ) -> None:
        if not 0 <= foreground_probability <= 1:
            raise ConfigError(f"data.foreground_probability={foreground_probability} must be between 0 and 1")
        named = dict(class_weights or {})
        if unknown := set(named) - set(CLASSES[1:]):
            raise ConfigError(f"data.class_weights names {', '.join(sorted(unknown))}; give {', '.join(CLASSES[1:])}")
        if named and (min(named.values()) < 0 or max(named.values()) <= 0):
            raise ConfigError(f"data.class_weights={named} must not be negative, and one has to be above 0")
        self.roi_size = roi_size
        self.foreground_probability = foreground_probability
        self.class_weights = {CLASSES.index(name): weight for name, weight in named.items()}

    def __call__(self, case: Prepared, shape: Sequence[int], rng: np.random.Generator) -> list[int]:
        """The patch's first voxel, inside the volume of `shape` along every axis on which that is the larger.

        A volume that is smaller than the patch lies in its middle.
        """
        room = [max(0, size - roi) for size, roi in zip(shape, self.roi_size, strict=True)]
        if case.tumour and rng.random() < self.foreground_probability:
            voxels = self._candidates(case, rng)
            centre = np.unravel_index(voxels[rng.integers(len(voxels))], tuple(shape))
            wanted = [int(c) - roi // 2 for c, roi in zip(centre, self.roi_size, strict=True)]
            start = [min(max(0, first), most) for first, most in zip(wanted, room, strict=True)]
        else:
            start = [int(rng.integers(most + 1)) for most in room]
        gaps = [max(0, roi - size) // 2 for size, roi in zip(shape, self.roi_size, strict=True)]
        return [first - gap for first, gap in zip(start, gaps, strict=True)]

    def _candidates(self, case: Prepared, rng: np.random.Generator) -> NDArray[np.int32]:
        """Flat indices of the voxels to centre on."""
        weights = {index: self.class_weights.get(index, 0.0) for index in case.tumour or ()}
        total = sum(weights.values())
        if not total:
            return case.tumour_voxels()
        return case.tumour_voxels(int(rng.choice(list(weights), p=[weight / total for weight in weights.values()])))


def read_weights(
    given: Mapping[str, float] | Path | None, cases: Sequence[str], known: Collection[str]
) -> list[float] | None:
    """The weights of `cases`, ids, from a mapping or a YAML or JSON file of one; 1 where it does not name them.

    Raises `ValueError` when it is no mapping to numbers, or names an id that is not among `known`.
    """
    if given is None:
        return None
    weights: Any = given
    if isinstance(given, Path):
        if not given.expanduser().is_file():
            raise ConfigError(f"{given}: no such file, named as data.case_weights")
        try:
            weights = yaml.safe_load(given.expanduser().read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{given}: is not valid YAML ({error}), named as data.case_weights") from None
    if not isinstance(weights, Mapping) or not all(isinstance(weight, (int, float)) for weight in weights.values()):
        raise ConfigError(f"data.case_weights={given} must map ids of cases to numbers")
    weights = {str(name): weight for name, weight in weights.items()}  # to YAML an id of digits is a number
    if unknown := sorted(set(weights) - set(known)):
        raise ConfigError(f"data.case_weights names {', '.join(unknown[:5])}, which are no cases of this run")
    return [float(weights.get(name, 1)) for name in cases]
