"""The cases that a dataset.json describes: listed by it, as in MSD, or found by the names of nnU-Net."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raum_lightning.cases.case import Case
from raum_lightning.cases.ids import check_inside, printable
from raum_lightning.cases.matching import Listing, case_of
from raum_lightning.cases.nifti import ENDINGS, stem
from raum_lightning.datasets import DataSet
from raum_lightning.datasets.dataset_json import FILE, OTHERWISE, read_dataset_json
from raum_lightning.errors import CaseError, ConfigError
from raum_lightning.json_files import read_json

# nnU-Net's folder of cases for testing, which may have masks
HELD_OUT = "imagesTs"


def indexed_cases(root: Path, declared: DataSet | None = None) -> list[Case] | None:
    """Return the cases that dataset.json in `root` describes; None where there is none and none is declared.

    Raises:
        CaseError: It does not describe cases, or not those of the data set that was declared.
    """
    path = root / FILE
    if not path.is_file():
        if declared is None:
            return None
        raise CaseError(f"{path}: no such file; data set {declared.name} needs it")
    try:
        dataset = read_dataset_json(path, declared if declared and declared.labels else None)
    except ConfigError as error:
        raise CaseError(str(error)) from None
    return _listed(path, dataset) if dataset.index else _found(root, dataset)


def _listed(path: Path, dataset: DataSet) -> list[Case]:
    """Cases of MSD: one file each, named under `training` and `test`."""
    lists = read_json(path, CaseError, {}, {"training": [object], "test": [object]})
    cases = []
    for item in [*lists.get("training", ()), *lists.get("test", ())]:
        image, label = (item.get("image"), item.get("label")) if isinstance(item, Mapping) else (item, None)
        file = _named(path, image)
        mask = None if label is None else _named(path, label)
        cases.append(Case(stem(file) or "", dataset, dict.fromkeys(dataset.channels, file), mask, dataset.channels))
    return cases


def _named(path: Path, name: Any) -> Path:
    if not isinstance(name, str):
        raise CaseError(f"{path}: names {name!r} as the file of a case{OTHERWISE}")
    file = check_inside(path.parent / name, path.parent)
    if stem(file) is None:
        raise CaseError(f"{printable(str(file))}: {FILE} names it as an image, which ends in {' or '.join(ENDINGS)}")
    return file


def _found(root: Path, dataset: DataSet) -> list[Case]:
    """Cases of nnU-Net: imagesTr/CASE_0000.nii.gz, a file for each channel, and labelsTr/CASE.nii.gz."""
    listing = Listing.of(root)
    cases = [case_of(listing, dataset, case) for case in sorted(listing.cases(dataset))]
    return [replace(case, held_out=case.folder.name == HELD_OUT) for case in cases]
