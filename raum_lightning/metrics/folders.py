"""Two folders of masks, predictions and references, by case.

Files are matched by the id of their case: `<id>.nii.gz`, `<id>_seg.nii.gz`, `<id>-seg.nii.gz` or what a data set calls
predicted masks (`prediction`), whatever the folders.
Whose label values a mask holds must be known before it is read, since data sets use the same numbers for different
things (see `labels`). In this order it follows from

1. what was declared,
2. what `raum` noted in the header of a file that it wrote,
3. a dataset.json of MSD or nnU-Net in the folder, or in that around nnU-Net's labelsTr and labelsTs,
4. the name: BraTS20_*, BraTS2021_* and *_seg have the values of 2020, BraTS-GLI-* and *-seg those of 2023; a prediction
   that nothing but its name speaks for has the values that dataset.json says of its reference,
5. for a prediction, its reference.

A value that the data set found in this way does not define is an error, never a guess. BraTS 2024 must be declared.
"""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from raum_lightning.atomic import no_folder
from raum_lightning.cases.case import Case, other_case, read_remark
from raum_lightning.cases.discovery import files_below, find_cases, is_image, recognise
from raum_lightning.cases.nifti import Volume, read_nifti, stem
from raum_lightning.datasets import ALIASES, DataSet, load, presets
from raum_lightning.datasets.dataset_json import FILE
from raum_lightning.errors import CaseError, ConfigError, EvaluationError, LabelError

# how the values of a mask are known, beside FILE
NAME = "file name"
# nnU-Net's folders of masks
LABELS = ("labelsTr", "labelsTs")


@dataclass(frozen=True)
class MaskFile:
    """A file with a mask; whose label values it holds, where that is known, and how."""

    path: Path
    found: DataSet | None = None
    known_by: str = ""
    noted: str = ""
    """The data set that its header names, where that is not known by name."""

    def __str__(self) -> str:
        return f"{self.found.name if self.found else 'unknown'}, by {self.known_by}"

    @property
    def dataset(self) -> DataSet:
        """Whose label values it holds, where that is known for certain."""
        assert self.found is not None
        return self.found

    def beside(self, reference: "MaskFile") -> "MaskFile":
        """Return a prediction with the data set of its reference where its own is not known, or is the same by name.

        Raises:
            EvaluationError: Its data set has classes that the reference's does not know.
        """
        known = reference.dataset
        if self.known_by == NAME and reference.known_by == FILE:
            return replace(self, found=known, known_by="reference")
        if self.found is None:
            if self.noted not in ("", known.name):
                raise EvaluationError(
                    f"{self.path}: has the label values of {self.noted}, as its header says, its reference "
                    f"{reference.path} those of {known.name}; give the YAML or dataset.json of {self.noted} as "
                    "--dataset-predictions"
                )
            # 4 of BraTS 2024 was declared for the reference: here it may mean what it did in 2020
            known = load("brats2023") if known.name == "brats2024" else known
            return replace(self, found=known, known_by="reference")
        # what dataset.json of MSD Task01 says of its values holds for predictions too
        if self.found.name == known.name:
            return replace(self, found=known)
        ours, theirs = self.found.classes, known.classes
        if not (set(ours) <= set(theirs) or ours[: len(theirs)] == theirs):
            raise EvaluationError(
                f"{self.path}: has the classes {', '.join(ours[1:])} (it is {self}), its reference {reference.path} "
                f"{', '.join(theirs[1:])} (it is {reference}); where the prediction has these too, give "
                "--dataset-predictions, a YAML with these names where it calls them otherwise"
            )
        return self


@dataclass(frozen=True)
class Folders:
    """Predictions and references by the id of their case, and which are in one folder only."""

    pairs: dict[str, tuple[MaskFile, MaskFile]]
    without_prediction: dict[str, MaskFile]
    without_reference: list[str]

    @property
    def of_other_cases(self) -> list[str]:
        """A sentence on each prediction whose header names another case."""
        said = (other_case(mask.path, case) for case, (mask, _) in self.pairs.items())
        return [sentence for sentence in said if sentence]

    @property
    def datasets(self) -> dict[str, dict[str, int]]:
        """For each side, how many masks were read as which data set's, and how that was known."""
        sides = zip(*self.pairs.values(), strict=True)
        names = ("predictions", "references")
        return {name: dict(Counter(map(str, masks))) for name, masks in zip(names, sides, strict=True)}


def match_folders(
    predictions: Path, references: Path, *, dataset_predictions: str = "auto", dataset_references: str = "auto"
) -> Folders:
    """Return the masks of two folders by case; raise `EvaluationError` where nothing can be compared."""
    expected = find_references(references, dataset_references)
    found = find_masks(predictions, dataset_predictions, known=expected)
    common = [case for case in expected if case in found]
    if not common:
        raise EvaluationError(
            f"no case is both in {predictions} ({', '.join([*found][:2])}, ...) and in {references} "
            f"({', '.join([*expected][:2])}, ...)"
        )
    return Folders(
        {case: (found[case].beside(expected[case]), expected[case]) for case in common},
        {case: mask for case, mask in expected.items() if case not in found},
        [case for case in found if case not in expected],
    )


def find_references(root: Path, dataset: str = "auto") -> dict[str, MaskFile]:
    """Return the masks of the cases in `root` by id, or those of `find_masks` where the folder holds no images.

    Raises `EvaluationError` where nothing says whose label values they hold.
    """
    declared = _declared(dataset)
    if (cases := _cases(root, declared)) is not None:
        option, described = _declared_by(dataset) if declared else "", _described(root)
        masks = {
            case.id: MaskFile(case.label, case.dataset, option or (FILE if case.dataset == described else NAME))
            for case in cases
            if case.label
        }
        if not masks:
            raise EvaluationError(f"{root}: its cases have no masks; references are cases with one")
    else:
        masks = find_masks(root, dataset)
    if unclear := [mask.path for mask in masks.values() if mask.found is None]:
        offered = ", ".join(name for name, preset in presets().items() if preset.labels)
        raise EvaluationError(
            f"{unclear[0]}: nothing says whose label values the references hold; give it as --dataset, one of "
            f"{offered}, a YAML file or a dataset.json"
        )
    return masks


def find_masks(root: Path, dataset: str = "auto", known: Collection[str] = ()) -> dict[str, MaskFile]:
    """Return the masks below `root` by the id of their case; raise `EvaluationError` for none and for two of one.

    Images beside them are left out. A file that is called as a case of `known` is a mask, though that be p01_T1.
    """
    declared = _declared(dataset)
    by_name = declared is None
    if declared and not declared.labels:
        declared = None  # a dataset.json says what they are, which may lie with the references
    described = _described(root) if declared is None else None
    masks: dict[str, MaskFile] = {}
    for path in _files(root):
        name = stem(path) or ""
        if name not in known and _is_image(path, declared):
            continue
        case = _case_of(name, declared)
        if case in masks:
            raise EvaluationError(
                f"case {case} is both {masks[case].path} and {path}; remove one, or call them as their cases, such as "
                "<case>.nii.gz"
            )
        option = MaskFile(path, declared, _declared_by(dataset)) if declared else None
        masks[case] = option or _recognised(path, name, described, by_name)
    if not masks:
        raise EvaluationError(f"{root}: no masks found; expected files such as <case>.nii.gz or <case>_seg.nii.gz")
    return masks


def read_pair(prediction: MaskFile, reference: MaskFile) -> tuple[torch.Tensor, torch.Tensor, NDArray[np.float64]]:
    """Return class indices X Y Z of both, those of the reference's data set, and their affine.

    Raises `CaseError` or `LabelError` where one cannot be read, or they lie on different grids.
    """
    guess, volume = read_mask(prediction, "predictions")
    truth, other = read_mask(reference, "references")
    volume.check_grid(other)
    ours, theirs = prediction.dataset.classes, reference.dataset.classes
    if ours != theirs[: len(ours)]:
        # what the reference does not know keeps an index that none of its classes has
        table = np.arange(256, dtype=np.uint8)
        for index, name in enumerate(ours):
            table[index] = theirs.index(name) if name in theirs else index
        guess = torch.from_numpy(table[guess.numpy()])
    return guess, truth, other.affine


def read_mask(mask: MaskFile, side: str) -> tuple[torch.Tensor, Volume]:
    """Return class indices X Y Z, and the file as it is; raise `LabelError` for values that it must not hold."""
    volume = read_nifti(mask.path)
    try:
        return torch.from_numpy(mask.dataset.encode(volume.data)), volume
    except LabelError as error:
        raise LabelError(f"{mask.path}: {error} (it is {mask}; --dataset-{side} declares another)") from None


def _case_of(name: str, declared: DataSet | None) -> str:
    """Return the id of the case of a mask by its name without ending."""
    known = [declared] if declared else presets().values()
    longest_first = sorted(known, key=lambda dataset: -len(dataset.prediction))
    by_data_set = (dataset.predicted(name) for dataset in longest_first if dataset.prediction != "{case}")
    return next((case for case in by_data_set if case), re.sub(r"[_-]seg$", "", name, flags=re.IGNORECASE))


def _files(root: Path) -> list[Path]:
    if not root.is_dir():
        raise EvaluationError(no_folder(root))
    return [path for path in sorted(files_below(root)) if stem(path)]


def _is_image(path: Path, declared: DataSet | None = None) -> bool:
    """Return whether a file is called as an image is, and is no mask that this package wrote."""
    return is_image(stem(path) or "", declared) and not read_remark(path)


def _declared(name: str) -> DataSet | None:
    """Return the data set of a name or YAML file; None for "auto"."""
    return None if name == "auto" else load(name)


def _cases(root: Path, declared: DataSet | None) -> list[Case] | None:
    """Return the cases of a folder that holds images; None where it holds none."""
    files = _files(root)
    described = _described(root) if declared is None else None
    if declared is None and described is None and not any(map(_is_image, files)):
        return None
    try:
        return find_cases(root, declared or "auto")
    except CaseError:
        if any(_is_image(path, declared or described) for path in files):
            raise
        return None


def _described(root: Path) -> DataSet | None:
    """Return what a dataset.json says of the masks in a folder: one in it, or around nnU-Net's folders of masks."""
    above = [root.resolve().parent] if root.resolve().name in LABELS else []
    found = next((path for folder in (root, *above) if (path := folder / FILE).is_file()), None)
    try:
        return load(found) if found else None
    except ConfigError:
        return None  # the names of the files may still say what they are, as for cases


def _declared_by(dataset: str) -> str:
    """Return how the values of masks of a declared data set are known: by the option itself, or by a dataset.json."""
    return FILE if load(dataset).index or dataset.endswith(FILE) else "option"


def _recognised(path: Path, name: str, described: DataSet | None, by_name: bool) -> MaskFile:
    """Return a mask with whose label values it holds, and how that is known; its name counts with `by_name`."""
    remark = read_remark(path)
    if remark and (known := presets().get(ALIASES.get(remark[0], remark[0]))):
        return MaskFile(path, known, "header")
    if described:
        return MaskFile(path, described, FILE)
    if remark or not by_name:
        return MaskFile(path, noted=remark[0] if remark else "")
    by_ending = {"_seg": load("brats2020"), "-seg": load("brats2023")}
    known = recognise(name) or by_ending.get(name[-4:].lower())
    return MaskFile(path, known, NAME if known else "")
