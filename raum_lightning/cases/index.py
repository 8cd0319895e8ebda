"""dataset.json: modalities, labels and cases as the Medical Segmentation Decathlon and nnU-Net write them."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from raum_lightning.cases.case import Case
from raum_lightning.cases.ids import check_inside, printable
from raum_lightning.cases.matching import Listing, case_of
from raum_lightning.cases.nifti import ENDINGS, stem
from raum_lightning.datasets import DataSet, load, parse
from raum_lightning.errors import CaseError, ConfigError
from raum_lightning.json_files import read_json

FILE = "dataset.json"
# nnU-Net's folder of cases for testing, which may have masks
HELD_OUT = "imagesTs"
# how the modalities of gliomas are spelt, and what the names of their classes contain, without spaces and hyphens; of
# two that fit the earlier decides
MODALITIES = {"flair": "flair", "t1w": "t1", "t1": "t1", "t1gd": "t1ce", "t1ce": "t1ce", "t2w": "t2", "t2": "t2"}
CLASSES = {"nonenhanc": "NCR", "unenhanc": "NCR", "necro": "NCR", "enhanc": "ET", "edema": "ED"}


def indexed_cases(root: Path, declared: DataSet | None = None) -> list[Case] | None:
    """Return the cases that dataset.json in `root` describes; None where there is none and none is declared.

    Raises:
        CaseError: It does not describe cases, or not those of the data set that was declared.
    """
    path = root / FILE
    if declared is None and not path.is_file():
        return None
    if not path.is_file():
        raise CaseError(f"{path}: no such file; data set {declared and declared.name} needs it")
    content = read_json(path, CaseError)
    try:
        listed = "training" in content if declared is None else bool(declared.labels)
        return _listed(root, content, declared) if listed else _nnunet(root, content)
    except CaseError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        said = str(error) if isinstance(error, ConfigError) else f"unexpected or missing {error}"
        raise CaseError(
            f"{path}: describes cases neither as MSD nor as nnU-Net does ({said}); where the names of their files say "
            "what they are, declare the data set with data.dataset or --dataset (once called edition)"
        ) from None


def _listed(root: Path, content: Any, declared: DataSet | None) -> list[Case]:
    """Cases of MSD: one file each, named under `training` and `test`."""
    modalities = {int(i): str(name) for i, name in (content.get("modality") or content["channel_names"]).items()}
    labels = {value: name for value, name in _by_value(content["labels"]).items() if value}
    dataset = _glioma(modalities, labels)
    if dataset is None:
        if declared:
            raise ConfigError(f"{[*modalities.values()]} with {[*labels.values()]} is not {declared.name}")
        dataset = _described(root, content, labels)
        channels = {_plain(name): i for i, name in modalities.items()}
    else:
        channels = {MODALITIES[name.lower()]: i for i, name in modalities.items()}
    dataset = replace(dataset, images=dict.fromkeys(channels, ("**/{case}",)), channels=channels)
    entries = [(item["image"], item["label"]) for item in content.get("training", ())]
    entries += [(item["image"] if isinstance(item, dict) else item, None) for item in content.get("test", ())]
    if not all(isinstance(image, str) for image, _ in entries):
        raise ConfigError("a case has several images")
    cases = []
    for image, label in entries:
        path = check_inside(root / image, root)
        if (case := stem(path)) is None:
            raise CaseError(
                f"{printable(str(path))}: {FILE} names it as an image, which ends in {' or '.join(ENDINGS)}"
            )
        mask = None if label is None else check_inside(root / label, root)
        cases.append(Case(case, dataset, dict.fromkeys(channels, path), mask, channels))
    return cases


def _nnunet(root: Path, content: Any) -> list[Case]:
    """Cases of nnU-Net: imagesTr/CASE_0000.nii.gz, a file for each channel, and labelsTr/CASE.nii.gz."""
    if not content.get("file_ending", ".nii").startswith(".nii"):
        raise ConfigError(f"file_ending {content['file_ending']} is not NIfTI's")
    by_name = {str(name): value for name, value in content["labels"].items()}
    ignore = by_name.pop("ignore", None)
    regions = {}
    if any(isinstance(value, list) for value in by_name.values()):
        # a region of one value may stand without brackets
        members = {name: value if isinstance(value, list) else [value] for name, value in by_name.items()}
        regions = {_plain(name): values for name, values in members.items() if values != [0]}
    labels = {value: name for name, value in by_name.items() if isinstance(value, int) and value}
    if regions:
        names = {members[0]: name for name, members in regions.items() if len(members) == 1}
        found = sorted({value for members in regions.values() for value in members})
        labels = {value: names.get(value, f"label{value}") for value in found}
    dataset = _described(root, content, labels, ignore=ignore)
    if regions:
        indices = dataset.indices
        given = {name: tuple(sorted(indices[value] for value in members)) for name, members in regions.items()}
        dataset = replace(dataset, regions=given)
    channels = {_plain(name): int(i) for i, name in content["channel_names"].items()}
    preset = load("nnunet")
    patterns = {name: (f"imagesT[rs]/{{case}}_{i:04d}",) for name, i in channels.items()}
    dataset = replace(dataset, images=patterns, mask=preset.mask, splits=preset.splits)
    listing = Listing.of(root)
    cases = [case_of(listing, dataset, case) for case in sorted(listing.cases(dataset))]
    return [replace(case, held_out=case.folder.name == HELD_OUT) for case in cases]


def _by_value(table: Mapping[str, Any]) -> dict[int, str]:
    """Name by label value, from {"1": "edema", ...} or turned round, {"edema": 1, ...}."""
    return dict((int(k), str(v)) if k.isdigit() else (int(v), k) for k, v in table.items())


def _glioma(modalities: Mapping[int, str], labels: Mapping[int, str]) -> DataSet | None:
    """MSD Task01 with these label values; None where modalities or labels are not those of a glioma."""
    found = {value: word for value, name in labels.items() if (word := _class(name))}
    if not all(name.lower() in MODALITIES for name in modalities.values()) or len(found) < len(labels):
        return None
    if len(set(found.values())) < len(found):
        raise ConfigError(f"of the labels {dict(labels)} two are the same class")
    preset, values = load("msd-task01"), {word: value for value, word in found.items()}
    if set(values) != set(preset.labels.values()):
        return None
    return replace(preset, labels={values[name]: name for name in preset.labels.values()})


def _class(name: str) -> str | None:
    plain = re.sub(r"[\s_-]", "", name.lower())
    return next((word for part, word in CLASSES.items() if part in plain), None)


def _described(root: Path, content: Any, labels: Mapping[int, str], ignore: int | None = None) -> DataSet:
    """A data set with the names that the file gives to its classes."""
    named = {value: _plain(name) for value, name in labels.items()}
    about: dict[str, Any] = {"name": _plain(str(content.get("name") or root.resolve().name)), "labels": named}
    about |= {"images": {"image": "{case}"}, "ignore": ignore, "source": str(content.get("reference") or "")}
    return parse(about, str(root / FILE))


def _plain(name: str) -> str:
    """A name without spaces and other signs."""
    return re.sub(r"[^\w.+-]+", "_", str(name)).strip("_")
