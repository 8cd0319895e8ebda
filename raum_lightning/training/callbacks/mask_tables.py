"""Files written beside a folder of masks: volumes, and label names and colours for ITK-SNAP and 3D Slicer."""

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from raum_lightning.atomic import atomic
from raum_lightning.cases.nifti import read_nifti
from raum_lightning.datasets import DataSet
from raum_lightning.figures.paint import class_colours, rgb
from raum_lightning.labels import in_classes


def write_volumes(path: Path, masks: Mapping[str, tuple[Path, DataSet]]) -> None:
    """Write the volume in ml of each region of each case, read from its mask; empty where a data set lacks a region."""
    rows: list[dict[str, str]] = []
    for case, (mask, dataset) in masks.items():
        volume = read_nifti(mask)
        labels = dataset.encode(volume.data)
        voxel_ml = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000
        found = {name: np.count_nonzero(in_classes(labels, members)) for name, members in dataset.regions.items()}
        rows.append({"case": case} | {name: f"{count * voxel_ml:.3f}" for name, count in found.items()})
    columns = dict.fromkeys(key for row in rows for key in row)
    with atomic(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)


def write_label_tables(folder: Path, datasets: Iterable[DataSet]) -> None:
    """Write ITK-SNAP's label description, `<name>.txt`, and 3D Slicer's colours, `<name>.ctbl`, of each data set."""
    for dataset in datasets:
        colours = class_colours(dataset)
        snap, slicer = ["# ITK-SNAP label description"], [f"# Color table file {dataset.name}"]
        for value, name in sorted(dataset.labels.items()):
            red, green, blue = rgb(colours[dataset.classes.index(name)])
            snap.append(f'{value:5} {red:5} {green:4} {blue:4} {1:9} {1:2} {1:2}    "{name}"')
            slicer.append(f"{value} {name} {red} {green} {blue} 255")
        snap.insert(1, f'{0:5} {0:5} {0:4} {0:4} {0:9} {0:2} {0:2}    "Clear Label"')
        slicer.insert(1, "0 background 0 0 0 0")
        for ending, lines in ((".txt", snap), (".ctbl", slicer)):
            with atomic(folder / f"{dataset.name}{ending}") as partial:
                partial.write_text("\n".join(lines) + "\n")
