"""Which case a patch comes from and where it lies in it."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raum_lightning.atomic import expanded
from raum_lightning.data.augment.kernels import Size
from raum_lightning.data.option_checks import check_share, check_weights
from raum_lightning.data.store import Prepared
from raum_lightning.errors import ConfigError
from raum_lightning.labels import CLASSES
from raum_lightning.yaml_files import read_yaml

STEPS = 2**20
"""Parts that a slot is divided into, few enough for exact sums: with equal weights each case fills one slot."""


class CaseOrder:
    """The case at every position of an endless stream.

    The stream is cut into rounds of as many positions as there are cases. In each round a case occurs as often as its
    share of the weights says, rounded up or down at random so that the mean is exact, in an order that is new in each
    round: with equal weights once, otherwise by systematic sampling.

    Args:
        weights: One per case, at least 0, their sum above 0.
        seed: Decides the order.
    """

    def __init__(self, weights: Sequence[float], *, seed: int) -> None:
        scaled = np.asarray(weights, np.float64)
        assert (scaled >= 0).all() and 0 < scaled.sum() < np.inf, "see `read_weights` and `weights_of`"
        self.edges = np.cumsum(scaled * len(scaled) / scaled.sum())[:-1]
        self.length = len(scaled)
        self.seed = seed

    def __call__(self, position: int) -> int:
        """Return the index of the case."""
        number, place = divmod(position, self.length)
        rng = np.random.default_rng((self.seed, number))
        slot = rng.permutation(self.length)[place]
        return int(np.searchsorted(self.edges, slot + rng.integers(STEPS) / STEPS, side="right"))


class PatchPlaces:
    """Where in a case the patch lies.

    Args:
        roi_size: X Y Z of the patch in voxels.
        foreground_probability: Share of patches centred on a tumour voxel; the others lie anywhere in the volume.
        class_weights: Where given, a class is sampled by these weights among those that the case has, and then one of
            its voxels; else, and in a case with none of these classes, all tumour voxels are equally likely.
        classes: Their names, background first.
        equal_classes: Sample all classes alike where `class_weights` are not given.
    """

    def __init__(
        self,
        roi_size: Size,
        *,
        foreground_probability: float = 0.5,
        class_weights: Mapping[str, float] | None = None,
        classes: Sequence[str] = CLASSES,
        equal_classes: bool = False,
    ) -> None:
        check_share("foreground_probability", foreground_probability)
        named = dict(class_weights or {})
        self.equal_classes = equal_classes and not named
        if unknown := set(named) - set(classes[1:]):
            raise ConfigError(f"data.class_weights names {', '.join(sorted(unknown))}; give {', '.join(classes[1:])}")
        check_weights("class_weights", named)
        if named and not any(named.values()):
            raise ConfigError(f"data.class_weights={named}: one has to be above 0")
        self.roi_size = roi_size
        self.foreground_probability = foreground_probability
        self.class_weights = {classes.index(name): weight for name, weight in named.items()}

    def __call__(
        self, case: Prepared, shape: Sequence[int], rng: np.random.Generator, *, foreground: bool | None = None
    ) -> list[int]:
        """Return the patch's first voxel, inside the volume of `shape` along every axis on which that is the larger.

        A volume that is smaller than the patch lies in its middle. Where `foreground` is not given chance decides.
        """
        room = [max(0, size - roi) for size, roi in zip(shape, self.roi_size, strict=True)]
        if case.tumour and (rng.random() < self.foreground_probability if foreground is None else foreground):
            voxels = self._candidates(case, rng)
            centre = np.unravel_index(voxels[rng.integers(len(voxels))], tuple(shape))
            wanted = [int(c) - roi // 2 for c, roi in zip(centre, self.roi_size, strict=True)]
            start = [min(max(0, first), most) for first, most in zip(wanted, room, strict=True)]
        else:
            start = [int(rng.integers(most + 1)) for most in room]
        gaps = [max(0, roi - size) // 2 for size, roi in zip(shape, self.roi_size, strict=True)]
        return [first - gap for first, gap in zip(start, gaps, strict=True)]

    def _candidates(self, case: Prepared, rng: np.random.Generator) -> NDArray[np.int32]:
        """Return flat indices of the voxels to centre on."""
        chosen = dict.fromkeys(case.tumour or (), 1.0) if self.equal_classes else self.class_weights
        weights = {index: chosen.get(index, 0.0) for index in case.tumour or ()}
        total = sum(weights.values())
        if not total:
            return case.tumour_voxels()
        return case.tumour_voxels(int(rng.choice(list(weights), p=[weight / total for weight in weights.values()])))


def read_weights(given: Mapping[str, float] | Path | None) -> dict[str, float]:
    """Return case weights by id, from a mapping or a YAML or JSON file of one; none where nothing is given.

    Raises:
        ConfigError: Where the file cannot be read, or a weight is not a number of at least 0.
    """
    weights: Any = given or {}
    if isinstance(given, Path):
        if not expanded(given).is_file():
            raise ConfigError(f"{given}: no such file, named as data.case_weights")
        weights, _ = read_yaml(expanded(given))
    if not isinstance(weights, Mapping):
        raise ConfigError(f"data.case_weights={given} must map ids of cases to numbers")
    # to YAML an id of digits is a number
    named: dict[str, float] = {str(name): weight for name, weight in weights.items()}
    check_weights("case_weights", named)
    return named


def weights_of(cases: Sequence[str], weights: Mapping[str, float], known: Collection[str]) -> list[float]:
    """Return the weights of `cases`, ids; 1 for those not named.

    Raises:
        ConfigError: Where `weights` names an id that is not among `known`, or leaves no case above 0.
    """
    if unknown := sorted(set(weights) - set(known)):
        raise ConfigError(f"data.case_weights names {', '.join(unknown[:5])}, not among the cases of this run")
    chosen = [float(weights.get(name, 1)) for name in cases]
    if chosen and not any(chosen):
        raise ConfigError("data.case_weights is 0 for every training case; give one a weight above 0")
    return chosen
