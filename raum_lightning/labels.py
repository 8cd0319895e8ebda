"""Masks of class indices as regions, and the outputs of a network as classes.

Inside the project a mask holds class indices: 0 background, then the classes in the order in which its data set's
description lists them (see `raum_lightning.datasets`, which alone knows label values and file names). A region is a
union of classes, such as WT = NCR + ED + ET; regions may be nested, may overlap, and need not cover all classes.
"""

from collections.abc import Mapping
from functools import lru_cache
from math import prod
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from numpy.typing import NDArray

from raum_lightning import datasets
from raum_lightning.datasets import BACKGROUND, DataSet

Regions = Mapping[str, tuple[int, ...]]
Array = TypeVar("Array", torch.Tensor, "NDArray[Any]")

# adult glioma, for what is not told its data set
# the former name of the data sets that come with the package, for one release
EDITIONS: Mapping[str, DataSet] = {**datasets.presets(), "msd": datasets.load("msd")}
CLASSES = datasets.load("brats2024").classes
REGIONS: Regions = datasets.load("brats2023").regions
MODALITIES = tuple(datasets.load("brats2020").images)
NCR, ED, ET, RC = (CLASSES.index(name) for name in ("NCR", "ED", "ET", "RC"))
# of each region that has one, in (0, 1)
Thresholds = Mapping[str, float]
NO_THRESHOLDS: Thresholds = MappingProxyType({})

__all__ = ["BACKGROUND", "CLASSES", "EDITIONS", "MODALITIES", "REGIONS", "Regions", "Thresholds"]


def in_classes(labels: Array, classes: tuple[int, ...]) -> Array:
    """Return where a mask of class indices, of any shape, holds one of `classes`: booleans of the same shape."""
    mask: Array = labels == classes[0]
    for index in classes[1:]:
        mask = mask | (labels == index)
    return mask


def to_regions(labels: torch.Tensor, regions: Regions = REGIONS) -> torch.Tensor:
    """Return the regions of class indices B X Y Z: booleans B K X Y Z, in the order of `regions`."""
    return torch.stack([in_classes(labels, classes) for classes in regions.values()], dim=1)


def from_regions(masks: torch.Tensor, regions: Regions = REGIONS) -> torch.Tensor:
    """Return the class indices, B X Y Z uint8, of `regions` given as booleans, B K X Y Z.

    Where the regions that hold a voxel are those of one class, it has that class (the first of several). Where no class
    has this combination the innermost region wins, that with the fewest classes: a voxel in TC but not in WT is NCR.
    """
    layers, exceptions = _painting(tuple(regions.values()))
    labels = torch.zeros_like(masks[:, 0], dtype=torch.uint8)
    for channel, index in layers:
        labels = labels.masked_fill(masks[:, channel], index)
    for signature, index in exceptions:
        wanted = torch.tensor(signature, device=masks.device).view(1, -1, 1, 1, 1)
        labels = labels.masked_fill((masks == wanted).all(dim=1), index)
    return labels


Layers = list[tuple[int, int]]
Exceptions = list[tuple[tuple[bool, ...], int]]


@lru_cache
def _painting(regions: tuple[tuple[int, ...], ...]) -> tuple[Layers, Exceptions]:
    """Return region and class, from the outermost region to the innermost, and the classes that this would not give.

    The latter are found where regions overlap and do not nest; each comes with the regions that hold it.
    """
    sets = [set(members) for members in regions]
    layers = []
    for channel in sorted(range(len(sets)), key=lambda channel: -len(sets[channel])):
        within = set[int]().union(*(other for other in sets if other < sets[channel]))
        layers.append((channel, min(sets[channel] - within or sets[channel])))
    signatures: dict[tuple[bool, ...], int] = {}
    for index in sorted(set[int]().union(*sets)):
        signatures.setdefault(tuple(index in members for members in sets), index)
    painted = {signature: [index for channel, index in layers if signature[channel]][-1] for signature in signatures}
    return layers, [(signature, index) for signature, index in signatures.items() if painted[signature] != index]


def classify(logits: torch.Tensor, mode: str, regions: Regions = REGIONS) -> torch.Tensor:
    """Return the class indices, B X Y Z uint8, that a network's outputs, B C X Y Z logits, say.

    `mode` "labels": the class with the largest logit. "regions": each region where its sigmoid exceeds 0.5, that is
    where its logit is positive.
    """
    if mode == "regions":
        return from_regions(logits > 0, regions)
    return _largest(logits)


def from_probabilities(
    values: torch.Tensor, mode: str, regions: Regions = REGIONS, thresholds: Thresholds = NO_THRESHOLDS
) -> torch.Tensor:
    """Return the class indices, B X Y Z uint8, of probabilities B K X Y Z.

    `mode` "labels": the class with the largest. "regions": each region that exceeds its threshold, 0.5 where it has
    none. In "labels" the threshold t of a region multiplies the probabilities of its classes by (1 - t) / t: a class of
    the region wins over one outside from t of their sum on. So 0.5 changes nothing, and less makes the region larger.
    """
    if mode == "regions":
        return from_regions(values > _column([thresholds.get(name, 0.5) for name in regions], values), regions)
    if thresholds:
        weights = {name: (1 - bound) / bound for name, bound in thresholds.items()}
        own = [
            prod(weights.get(name, 1) for name in regions if index in regions[name]) for index in range(values.shape[1])
        ]
        values = values * _column(own, values)
    return _largest(values)


def _largest(values: torch.Tensor) -> torch.Tensor:
    # `max` and not `argmax`, which takes five times as long along a strided axis on the CPU
    return values.max(dim=1).indices.to(torch.uint8)


def _column(numbers: list[float], values: torch.Tensor) -> torch.Tensor:
    """Return one number for each channel of B K X Y Z."""
    return values.new_tensor(numbers).view(1, -1, 1, 1, 1)
