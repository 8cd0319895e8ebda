"""Volumes, and names and colours of labels, beside a folder of masks; and the printed table of scores."""

import math
from pathlib import Path

import nibabel as nib
import numpy as np

from raum_lightning.cases.case import read_remark, write_mask
from raum_lightning.cases.discovery import find_case
from raum_lightning.datasets import load
from raum_lightning.training.callbacks.mask_tables import write_label_tables, write_volumes
from raum_lightning.training.callbacks.tables import means, table
from tests.helpers.cases import tiny_volumes, write_brats


def test_volumes_are_those_of_the_regions_in_ml(tmp_path: Path) -> None:
    case = find_case(write_brats(tmp_path, "a", load("brats2020")))
    write_mask(tmp_path / "m.nii.gz", tiny_volumes()[1], case, "flair")
    write_volumes(tmp_path / "v.csv", {"a": (tmp_path / "m.nii.gz", load("brats2020"))})
    labels = tiny_volumes()[1]
    sizes = [np.isin(labels, members).sum() / 1000 for members in ((1, 2, 3), (1, 3), (3,))]
    assert (tmp_path / "v.csv").read_text() == "case,WT,TC,ET\na,{:.3f},{:.3f},{:.3f}\n".format(*sizes)


def test_viewers_get_the_values_on_disk_with_names_and_colours(tmp_path: Path) -> None:
    write_label_tables(tmp_path, [load("brats2020")])
    assert (tmp_path / "brats2020.ctbl").read_text().splitlines()[1:] == [
        "0 background 0 0 0 0",
        "1 NCR 201 35 35 255",
        "2 ED 10 199 199 255",
        "4 ET 255 249 67 255",
    ]
    rows = [line.split() for line in (tmp_path / "brats2020.txt").read_text().splitlines()[1:]]
    assert rows[0] == ["0", "0", "0", "0", "0", "0", "0", '"Clear', 'Label"']
    assert rows[3] == ["4", "255", "249", "67", "1", "1", "1", '"ET"']


def test_a_mask_says_that_it_holds_labels_and_whose(tmp_path: Path) -> None:
    case = find_case(write_brats(tmp_path, "a", load("brats2020")))
    write_mask(tmp_path / "m.nii.gz", tiny_volumes()[1], case, "flair", "remark")
    assert nib.load(tmp_path / "m.nii.gz").header.get_intent()[0] == "label"
    assert read_remark(tmp_path / "m.nii.gz") == ("brats2020", "remark")


def test_a_case_without_a_score_is_left_out_of_the_printed_mean() -> None:
    scores = {"a": (0.5, 0.25), "b": (math.nan, 0.75), "c": (0.75, 0.5)}
    drawn = table({case: dict(zip(("dice_et", "dice_mean"), values, strict=True)) for case, values in scores.items()})
    assert [column.footer for column in drawn.columns] == ["mean", "0.625", "0.500"]


def test_means_of_raw_and_cleaned_masks_by_regions_of_two_words() -> None:
    names = [f"{metric}_{part}" for metric in ("dice", "nsd_05") for part in ("whole_tumor", "tumor_core", "mean")]
    row = {name: float(number) for number, name in enumerate(names)}
    row |= {f"cleaned/{name}": 10 + value for name, value in row.items()}
    drawn = means({"a": row})
    assert [column.header for column in drawn.columns] == ["mean of", "masks", "WHOLE_TUMOR", "TUMOR_CORE", "mean"]
    assert [list(column.cells) for column in drawn.columns] == [
        ["dice", "dice", "nsd_05", "nsd_05"],
        ["raw", "cleaned", "raw", "cleaned"],
        ["0.000", "10.000", "3.000", "13.000"],
        ["1.000", "11.000", "4.000", "14.000"],
        ["2.000", "12.000", "5.000", "15.000"],
    ]
