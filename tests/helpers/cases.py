"""Tiny cases in the layouts of the data sets, written where a test wants them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from raum_lightning.datasets import DataSet, presets
from raum_lightning.labels import ED, ET, NCR

AFFINE = np.array([[-1.0, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
SHAPE = (40, 36, 32)


def tiny_volumes(seed: int = 0, shape: Sequence[int] = SHAPE) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """A box of brain two voxels inside the volume, with a tumour of nested cubes; modalities and class indices."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    corner = rng.integers(6, 12, 3)
    for inset, index in enumerate((ED, NCR, ET)):
        labels[tuple(slice(c + 2 * inset, c + 14 - 2 * inset) for c in corner)] = index
    brain = np.zeros(shape, bool)
    brain[2:-2, 2:-2, 2:-2] = True
    images = {}
    for position, modality in enumerate(("flair", "t1", "t1ce", "t2")):
        noise = rng.normal(100, 5, shape) + 30 * (position + 1) * labels
        images[modality] = (noise.clip(1) * brain).astype(np.int16)
    return images, labels


def write_brats(root: Path, case: str, dataset: DataSet, *, seed: int = 0, ending: str = ".nii.gz") -> Path:
    """A case in the naming of a BraTS dataset; returns its folder."""
    images, labels = tiny_volumes(seed)
    folder = root / case
    folder.mkdir(parents=True)
    volumes = {dataset.images[modality][0]: image for modality, image in images.items()}
    for pattern, volume in (volumes | {dataset.mask[0]: dataset.decode(labels)}).items():
        nib.save(nib.Nifti1Image(volume, AFFINE), folder / (pattern.format(case=case).removeprefix("**/") + ending))
    return folder


def write_msd(root: Path, cases: int) -> None:
    """MSD Task01: 4-D images, a dataset.json, and one test image without a mask."""
    for folder in ("imagesTr", "labelsTr", "imagesTs"):
        (root / folder).mkdir(parents=True)
    content: dict[str, Any] = {
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "training": [],
        "test": ["./imagesTs/BRATS_900.nii.gz"],
    }
    for number in range(1, cases + 1):
        images, labels = tiny_volumes(number)
        name = f"BRATS_{number:03d}.nii.gz"
        stack = np.stack([images[modality] for modality in ("flair", "t1", "t1ce", "t2")], axis=-1)
        nib.save(nib.Nifti1Image(stack, np.eye(4)), root / "imagesTr" / name)
        nib.save(nib.Nifti1Image(presets()["msd-task01"].decode(labels), np.eye(4)), root / "labelsTr" / name)
        content["training"].append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
        nib.save(nib.Nifti1Image(stack, np.eye(4)), root / "imagesTs" / "BRATS_900.nii.gz")
    (root / "dataset.json").write_text(json.dumps(content))


def write_brats_cases(root: Path, count: int) -> Path:
    """Cases of BraTS 2020, numbered from 1; returns `root`."""
    for number in range(1, count + 1):
        write_brats(root, f"BraTS20_Training_{number:03d}", presets()["brats2020"], seed=number)
    return root
