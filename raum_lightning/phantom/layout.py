"""Synthetic cases as the cases of any data set: its modalities, file names, classes and label values."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from raum_lightning.datasets import BACKGROUND, DataSet, load
from raum_lightning.errors import ConfigError
from raum_lightning.labels import ED

# what other names a contrast has, and which contrast a modality of an unknown name gets, in turn
CONTRASTS = {"t1w": "t1", "t1n": "t1", "t1gd": "t1ce", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}
OTHERS = ("flair", "t1ce", "t2", "t1")
TISSUES = dict(enumerate(load("brats2020").classes))  # by the class indices that the generator gives
SCALP_MM, AIR = 8.0, 0.03


def listed(dataset: DataSet) -> DataSet:
    """Return a data set with file names, also one whose modalities and labels a dataset.json is to say.

    Raises:
        ConfigError: It has no place for a mask, or names that cannot be written.
    """
    if not dataset.labels:
        task = load("msd-task01")
        images = {name: (f"imagesTr/{{case}}_{n:04d}",) for n, name in enumerate(task.images)}
        dataset = replace(dataset, images=images, labels=task.labels, regions=task.regions)
    if not dataset.mask:
        raise ConfigError(f"data set {dataset.name} has no pattern for a mask; phantoms are written with one")
    return dataset


def case_id(dataset: DataSet, index: int) -> str:
    """Return the id of case `index`, from 0, as those of the data set look."""
    return (dataset.example or "case_{n:03d}").format(n=index + 1)


def files_of(dataset: DataSet, case: str) -> dict[str, str]:
    """Return the path below the root of each modality and of the mask; all modalities of a 4-D file have its path."""
    return {role: dataset.file_name(case, role) for role in (*dataset.images, "mask")}


def contrast(modality: str, position: int) -> str:
    """Return which of the generator's contrasts a modality gets."""
    plain = modality.lower()
    known = CONTRASTS.get(plain, plain)
    return known if known in OTHERS else OTHERS[position % len(OTHERS)]


def classes_of(dataset: DataSet, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return class indices X Y Z of the data set, from the generator's NCR, ED and ET.

    Classes of these names are what they say. The others share, from below upwards, the tissues for which there is no
    class, or where there are none the upper fifth of the oedema.
    """
    names = {name.upper(): index for index, name in enumerate(dataset.classes)}
    own = {tissue: names[name.upper()] for tissue, name in TISSUES.items() if name.upper() in names and tissue}
    table = np.zeros(4, np.uint8)
    for tissue, index in own.items():
        table[tissue] = index
    out: NDArray[np.uint8] = table[labels]
    others = [index for index in range(1, dataset.num_classes) if index not in own.values()]
    if not others:
        return out
    pool = np.argwhere((labels != BACKGROUND) & (out == BACKGROUND))
    if not len(pool):
        oedema = np.argwhere(labels == ED)
        pool = oedema[oedema[:, 2].argsort(kind="stable")][-(len(oedema) // 5 or 1) :]
    pool = pool[pool[:, 2].argsort(kind="stable")]
    for index, part in zip(others, np.array_split(pool, len(others)), strict=True):
        out[tuple(part.T)] = index
    return out


def with_skull(image: NDArray[np.int16], brain: NDArray[np.bool_], seed: int) -> NDArray[np.int16]:
    """Return an image X Y Z with a scalp around the brain, and the noise of air around that."""
    rng = np.random.default_rng(seed)
    bright = float(np.percentile(image[brain], 90))
    distance = ndimage.distance_transform_edt(~brain) * (240 / brain.shape[0])
    scalp = (distance > SCALP_MM / 2) & (distance <= SCALP_MM)
    noise = np.abs(rng.normal(0, AIR * bright, image.shape)) + np.where(scalp, bright, 0)
    return np.where(brain, image, noise.round()).astype(np.int16)


def write_index(root: Path, dataset: DataSet, cases: list[str]) -> None:
    """Write the dataset.json of a data set that has one, and nnU-Net's splits."""
    if not dataset.index:
        return
    order = {str(n): name for n, name in enumerate(dataset.images)}
    content: dict[str, Any]
    if dataset.channels:
        values = {str(value): name for value, name in dataset.labels.items()}
        words = {"NCR": "non-enhancing tumor", "ED": "edema", "ET": "enhancing tumor"}
        files = [files_of(dataset, case) for case in cases]
        content = {
            "modality": order,
            "labels": {"0": "background"} | {value: words.get(name, name) for value, name in values.items()},
            "training": [{"image": file[next(iter(dataset.images))], "label": file["mask"]} for file in files],
            "test": [],
        }
    else:
        regions = {name: [list(dataset.labels)[i - 1] for i in members] for name, members in dataset.regions.items()}
        content = {
            "channel_names": order,
            "labels": {"background": 0} | regions,
            "regions_class_order": list(dataset.labels),
            "numTraining": len(cases),
            "file_ending": ".nii.gz",
        }
    (root / dataset.index).write_text(json.dumps(content, indent=2) + "\n")
    if dataset.splits and len(cases) > 1:
        folds = [{"train": [c for c in cases if c != held], "val": [held]} for held in cases[:5]]
        (root / dataset.splits).write_text(json.dumps(folds, indent=2) + "\n")
