"""What is drawn of a case: its arrays, reoriented upright, as columns of grey values and colours."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raum_lightning.cases.case import Case, read_remark
from raum_lightning.figures.paint import AGREED, CLASS_COLOURS, ERROR_COLOURS, errors, grey, overlay
from raum_lightning.figures.planes import Plane, Point, Upright, centre, most
from raum_lightning.geometry import brain_mask
from raum_lightning.labels import BACKGROUND, CLASSES, ED, EDITIONS, ET, MODALITIES, NCR, REGIONS, in_classes

Labels = NDArray[np.uint8]

TITLES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1ce", "t2": "T2"}
# what a class is best judged on
BEST_ON = {ED: "flair", ET: "t1ce", NCR: "t1ce"}


@dataclass(frozen=True)
class Scan:
    """What is drawn: modalities X Y Z by name, their affine (voxels to mm), and masks of class indices X Y Z."""

    id: str
    images: Mapping[str, NDArray[np.float32]]
    affine: NDArray[np.float64]
    reference: Labels | None = None
    prediction: Labels | None = None

    @classmethod
    def read(cls, case: Case, prediction: Path | None = None, modalities: Sequence[str] = MODALITIES) -> "Scan":
        """A case with those of `modalities` it has, and a prediction.

        Its label values are those of the edition that its header notes, else those of the case. Raises `CaseError` for
        files that cannot be read or do not lie on one grid.
        """
        names = [modality for modality in modalities if modality in case.images]
        image, reference, affine = case.read_labelled(names)
        predicted = None
        if prediction:
            noted = (read_remark(prediction) or (case.edition.name,))[0]
            # what dataset.json of MSD Task01 says of its values holds for predictions too
            edition = case.edition if noted == case.edition.name else EDITIONS[noted]
            predicted = replace(case, label=prediction, edition=edition).read_labelled(names[:1])[1]
        return cls(case.id, dict(zip(names, image, strict=True)), affine, reference, predicted)

    @cached_property
    def upright(self) -> Upright:
        """How its arrays are reoriented upright."""
        return Upright(self.affine, next(iter(self.images.values())).shape)

    @property
    def brain(self) -> NDArray[np.bool_]:
        """Where any modality is not 0, X Y Z."""
        return brain_mask(np.stack(list(self.images.values())))

    @property
    def masks(self) -> dict[str, Labels]:
        """Reference and prediction, as far as there are."""
        named = {"reference": self.reference, "prediction": self.prediction}
        return {name: mask for name, mask in named.items() if mask is not None}

    @property
    def middle(self) -> Point:
        """Voxel X, Y, Z whose three slices hold most tumour, of the reference before the prediction.

        The centre of the brain where neither has any.
        """
        for mask in self.masks.values():
            if (tumour := in_classes(mask, REGIONS["WT"])).any():
                return most(tumour)
        return centre(self.brain)

    @property
    def classes(self) -> list[int]:
        """NCR, ED and ET, and the resection cavity where a mask has it."""
        seen = {int(index) for mask in self.masks.values() for index in np.unique(mask)}
        return sorted({NCR, ED, ET} | seen - {BACKGROUND})

    def millilitres(self, mask: NDArray[np.bool_]) -> float:
        """The volume of a mask X Y Z."""
        return float(np.count_nonzero(mask) * np.abs(np.linalg.det(self.affine[:3, :3])) / 1000)


class Panel(NamedTuple):
    """A column of the figure: a reoriented grey volume, and codes upon it in `colours`."""

    title: str
    background: NDArray[np.uint8]
    codes: Labels
    colours: Mapping[int, str]

    def paint(self, plane: Plane, index: int) -> NDArray[np.uint8]:
        """One slice as RGB."""
        return overlay(plane.cut(self.background, index), plane.cut(self.codes, index), self.colours)


def panels(scan: Scan, *, isolate: bool = True) -> Iterator[Panel]:
    """The columns: each modality, each mask, where they disagree, and with `isolate` each class by itself.

    With both masks a class is shown in its colour where they agree on it, and in the colours of errors where not.
    """
    greys = {modality: grey(scan.upright(image)) for modality, image in scan.images.items()}
    masks = {name: scan.upright(mask) for name, mask in scan.masks.items()}
    nothing = np.zeros(scan.upright.shape, np.uint8)
    for modality, background in greys.items():
        yield Panel(TITLES.get(modality, modality), background, nothing, CLASS_COLOURS)

    def on(index: int) -> NDArray[np.uint8]:
        return greys.get(BEST_ON.get(index, "t1ce"), next(iter(greys.values())))

    for name, mask in masks.items():
        yield Panel(name, on(ED), mask, CLASS_COLOURS)
    if len(masks) == 2:
        yield Panel("disagreement", on(ED) // 2, errors(*masks.values()), ERROR_COLOURS)
    for index in scan.classes if isolate and masks else ():
        alone = [np.where(mask == index, mask, 0) for mask in masks.values()]
        if len(alone) == 1:
            yield Panel(CLASSES[index], on(index), alone[0], CLASS_COLOURS)
        else:
            colours = ERROR_COLOURS | {AGREED: CLASS_COLOURS[index]}
            yield Panel(CLASSES[index], on(index), errors(alone[0], alone[1]), colours)
