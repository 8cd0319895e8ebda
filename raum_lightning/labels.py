"""What the numbers in a mask mean: classes, nested regions, and the label values of each edition of BraTS.

Inside the project a mask holds class indices: 0 background, 1 NCR, 2 ED, 3 ET, and 4 RC where an edition annotates
the resection cavity. On disk every edition has values of its own, and two of them use 4 for different things:

| edition                | NCR | ED | ET | RC | source                                   |
|------------------------|-----|----|----|----|------------------------------------------|
| BraTS 2020, 2021, 2022 | 1   | 2  | 4  |    | Baid et al., arXiv:2107.02314            |
| BraTS 2023 GLI         | 1   | 2  | 3  |    | synapse.org/brats2023                    |
| BraTS 2024 GLI         | 1   | 2  | 3  | 4  | de Verdier et al., arXiv:2405.18368      |
| MSD Task01             | 2   | 1  | 3  |    | its own dataset.json, which is read      |

The scored regions are nested: WT (whole tumour) = NCR + ED + ET, TC (tumour core) = NCR + ET, ET (enhancing tumour).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from raum_lightning.errors import LabelError

BACKGROUND, NCR, ED, ET, RC = range(5)
CLASSES = ("background", "NCR", "ED", "ET", "RC")
REGIONS: dict[str, tuple[int, ...]] = {"WT": (NCR, ED, ET), "TC": (NCR, ET), "ET": (ET,)}

Array = TypeVar("Array", torch.Tensor, "NDArray[Any]")


def in_classes(labels: Array, classes: tuple[int, ...]) -> Array:
    """Where a mask of class indices, of any shape, holds one of `classes`: a boolean array of the same shape."""
    mask: Array = labels == classes[0]
    for index in classes[1:]:
        mask = mask | (labels == index)
    return mask


def to_regions(labels: torch.Tensor) -> torch.Tensor:
    """Class indices, B X Y Z, to the nested regions, B 3 X Y Z bool, in the order of `REGIONS`."""
    return torch.stack([in_classes(labels, classes) for classes in REGIONS.values()], dim=1)


def from_regions(regions: torch.Tensor) -> torch.Tensor:
    """Regions WT, TC, ET, B 3 X Y Z bool, to class indices, B X Y Z uint8.

    The innermost region wins: ET, else TC (as NCR), else WT (as ED). A voxel in TC but not in WT is therefore NCR: what
    is predicted as core counts as tumour.
    """
    whole, core, enhancing = regions.unbind(dim=1)
    labels = whole.to(torch.uint8) * ED
    labels = labels.masked_fill(core, NCR)
    return labels.masked_fill(enhancing, ET)


def classify(logits: torch.Tensor, mode: str) -> torch.Tensor:
    """Network outputs, B C X Y Z logits, to class indices, B X Y Z uint8.

    `mode` "labels": the class with the largest logit. "regions": each region where its sigmoid exceeds 0.5, that is
    where its logit is positive.
    """
    if mode == "regions":
        return from_regions(logits > 0)
    # `max` and not `argmax`, which takes five times as long along a strided axis on the CPU
    return logits.max(dim=1).indices.to(torch.uint8)


@dataclass(frozen=True)
class Edition:
    """How one edition of a data set names its files and its label values.

    `classes` maps a value on disk to the class index. `suffixes` maps a modality to the end of its file's stem.
    """

    name: str
    classes: Mapping[int, int]
    suffixes: Mapping[str, str]
    separator: str = "_"

    @property
    def num_classes(self) -> int:
        """Classes with background: the channels a softmax network needs."""
        return max(self.classes.values()) + 1

    def encode(self, mask: NDArray[Any]) -> NDArray[np.uint8]:
        """Label values on disk to class indices; raises `LabelError` naming every value the edition does not have."""
        values = np.unique(mask[mask != BACKGROUND])
        if unknown := [float(v) for v in values if float(v) not in self.classes]:
            listed = ", ".join(_shown(v) for v in unknown[:5]) + (", ..." if unknown[5:] else "")
            hint = ""
            if self.name == "brats2023" and unknown == [4.0]:
                hint = "; 4 is the resection cavity of BraTS 2024: declare it with edition: brats2024"
            raise LabelError(f"label {listed} is not one of {self.name}'s {sorted(self.classes)}{hint}")
        table = np.zeros(int(max(self.classes)) + 1, np.uint8)
        for value, index in self.classes.items():
            table[value] = index
        return table.take(mask.astype(np.uint8))

    def decode(self, labels: NDArray[Any]) -> NDArray[np.uint8]:
        """Class indices to the edition's label values on disk; raises `LabelError` for a class that has none."""
        if (highest := int(labels.max(initial=0))) >= self.num_classes:
            raise LabelError(f"{self.name} has no label for {CLASSES[highest]}")
        table = np.zeros(len(CLASSES), np.uint8)
        for value, index in self.classes.items():
            table[index] = value
        return table.take(labels)


def _shown(value: float) -> str:
    """As short as it goes without becoming another number: 4, but 0.9999999403953552."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


_OLD = {"flair": "flair", "t1": "t1", "t1ce": "t1ce", "t2": "t2"}
_NEW = {"flair": "t2f", "t1": "t1n", "t1ce": "t1c", "t2": "t2w"}
_OLD_CLASSES = {0: BACKGROUND, 1: NCR, 2: ED, 4: ET}
_NEW_CLASSES = {0: BACKGROUND, 1: NCR, 2: ED, 3: ET}

MODALITIES = tuple(_OLD)
EDITIONS: dict[str, Edition] = {
    edition.name: edition
    for edition in (
        Edition("brats2020", _OLD_CLASSES, _OLD),
        Edition("brats2021", _OLD_CLASSES, _OLD),
        Edition("brats2023", _NEW_CLASSES, _NEW, "-"),
        Edition("brats2024", _NEW_CLASSES | {4: RC}, _NEW, "-"),
        # the values of MSD Task01 as published; `cases` replaces them by what dataset.json says
        Edition("msd", {0: BACKGROUND, 1: ED, 2: NCR, 3: ET}, {}),
    )
}
