"""What is drawn of a case: its arrays, reoriented upright, as columns of grey values and colours."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raum_lightning.cases.case import Case, read_remark
from raum_lightning.datasets import BACKGROUND, IGNORED, DataSet, load
from raum_lightning.datasets import names as data_sets
from raum_lightning.errors import CaseError
from raum_lightning.figures.paint import AGREED, ERROR_COLOURS, HATCHED, class_colours, errors, grey, overlay
from raum_lightning.figures.planes import Plane, Point, Upright, centre, most
from raum_lightning.geometry import brain_mask
from raum_lightning.labels import in_classes

Labels = NDArray[np.uint8]

TITLES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1ce", "t2": "T2"}
# where oedema, and with it all of a tumour, is seen best, and where any other class is
FOR_OEDEMA, FOR_OTHERS = "flair", "t1ce"
OEDEMA = ("ED", "SNFH", "EDEMA")


@dataclass(frozen=True)
class Scan:
    """What is drawn: modalities X Y Z by name, their affine (voxels to mm), and masks of class indices X Y Z.

    The data set says what the classes are called, which colours they have, and what the regions are.
    """

    id: str
    images: Mapping[str, NDArray[np.float32]]
    affine: NDArray[np.float64]
    reference: Labels | None = None
    prediction: Labels | None = None
    dataset: DataSet = field(default_factory=lambda: load("brats2024"))

    @classmethod
    def read(cls, case: Case, prediction: Path | None = None, modalities: Sequence[str] | None = None) -> "Scan":
        """Return a case with those of `modalities`, all where not given, that it has, and a prediction.

        The prediction's label values are those of the data set that its header notes, else those of the case. Where the
        prediction's has more classes than the case's, they are named and coloured as there.

        Raises:
            CaseError: A file cannot be read, does not lie on the grid of the others, or has other classes.
        """
        names = [modality for modality in modalities or case.images if modality in case.images]
        image, reference, affine = case.read_labelled(names)
        predicted, dataset = None, case.dataset
        if prediction:
            noted = (read_remark(prediction) or (case.dataset.name,))[0]
            if noted != case.dataset.name and noted not in data_sets():
                raise CaseError(
                    f"{prediction}: has the label values of {noted}, as its header says, the case those of "
                    f"{case.dataset.name}; give the YAML or dataset.json of {noted} as --dataset"
                )
            # what dataset.json of MSD Task01 says of its values holds for predictions too
            known = case.dataset if noted == case.dataset.name else load(noted)
            shared = min(known.num_classes, case.dataset.num_classes)
            if known.classes[:shared] != case.dataset.classes[:shared]:
                raise CaseError(
                    f"{prediction}: has the classes of {known.name} ({', '.join(known.classes[1:])}), the case those "
                    f"of {case.dataset.name} ({', '.join(case.dataset.classes[1:])}); give the case's as --dataset"
                )
            predicted = replace(case, label=prediction, dataset=known).read_labelled(names[:1])[1]
            dataset = case.dataset.or_wider(known)
        return cls(case.id, dict(zip(names, image, strict=True)), affine, reference, predicted, dataset)

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
            if (tumour := in_classes(mask, self.dataset.tumour)).any():
                return most(tumour)
        return centre(self.brain)

    @property
    def classes(self) -> list[int]:
        """Those of the largest region, and others, such as a resection cavity, where a mask has them."""
        seen = {int(index) for mask in self.masks.values() for index in np.unique(mask)}
        return sorted({*self.dataset.tumour} | seen - {BACKGROUND, IGNORED})

    def millilitres(self, mask: NDArray[np.bool_]) -> float:
        """The volume of a mask X Y Z."""
        return float(np.count_nonzero(mask) * np.abs(np.linalg.det(self.affine[:3, :3])) / 1000)


class Panel(NamedTuple):
    """A column of the figure: a reoriented grey volume, codes upon it in `colours`, and the modality that is grey."""

    title: str
    background: NDArray[np.uint8]
    codes: Labels
    colours: Mapping[int, str]
    modality: str = ""
    hatched: int | None = None

    def paint(self, plane: Plane, index: int) -> NDArray[np.uint8]:
        """Return one slice as RGB."""
        grey_values, codes = plane.cut(self.background, index), plane.cut(self.codes, index)
        return overlay(grey_values, codes, self.colours, hatched=self.hatched)


def panels(scan: Scan, *, isolate: bool = True) -> Iterator[Panel]:
    """Yield the columns: each modality, each mask, where they disagree, and with `isolate` each class by itself.

    With both masks a class is shown in its colour where they agree on it, and in the colours of errors where not.
    """
    greys = {modality: grey(scan.upright(image)) for modality, image in scan.images.items()}
    masks = {name: scan.upright(mask) for name, mask in scan.masks.items()}
    nothing = np.zeros(scan.upright.shape, np.uint8)
    colours, classes = class_colours(scan.dataset), scan.dataset.classes
    for modality, background in greys.items():
        yield Panel(TITLES.get(modality, modality), background, nothing, colours)

    def on(name: str) -> tuple[NDArray[np.uint8], str]:
        wanted = FOR_OEDEMA if name.upper() in OEDEMA else FOR_OTHERS
        modality = wanted if wanted in greys else next(iter(greys))
        return greys[modality], TITLES.get(modality, modality)

    whole, beneath = on(OEDEMA[0])
    for name, mask in masks.items():
        yield Panel(name, whole, np.where(mask == IGNORED, 0, mask), colours, beneath)
    if len(masks) == 2:
        yield Panel("disagreement", whole // 2, errors(*masks.values()), ERROR_COLOURS, beneath, HATCHED)
    for index in scan.classes if isolate and masks else ():
        background, beneath = on(classes[index])
        alone = [np.where(mask == index, mask, 0) for mask in masks.values()]
        if len(alone) == 1:
            yield Panel(classes[index], background, alone[0], colours, beneath)
        else:
            unknown = next(iter(masks.values())) == IGNORED
            shown = ERROR_COLOURS | {AGREED: colours[index]}
            codes = errors(np.where(unknown, np.uint8(IGNORED), alone[0]), alone[1])
            yield Panel(classes[index], background, codes, shown, beneath, HATCHED)
