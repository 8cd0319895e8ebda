"""`raum_lightning.show`: what a notebook displays."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

import raum_lightning
from raum_lightning.cases.discovery import find_case
from raum_lightning.datasets import load, parse, presets
from raum_lightning.errors import CaseError, FigureError
from raum_lightning.figures import Scan, draw, save
from raum_lightning.inference.segmenter import Segmenter
from raum_lightning.notebook import Picture, _scan_of
from tests.helpers.cases import tiny_volumes, write_brats
from tests.helpers.handmade import CARD, Handmade


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_brats(tmp_path, "BraTS20_Training_001", presets()["brats2020"])


def titles(picture: Picture) -> list[str]:
    """The bold headings above the columns, and the case's id."""
    return [text.get_text() for text in picture.figure.texts if text.get_weight() == "bold"]


@pytest.mark.slow
def test_a_case_is_drawn_as_raum_view_draws_it(case: Path, tmp_path: Path) -> None:
    picture = raum_lightning.show(str(case), isolate=True)
    assert repr(picture) == "<Picture of BraTS20_Training_001>"
    assert titles(picture) == [
        *("FLAIR", "T1", "T1ce", "T2"),
        *("reference", "NCR", "ED", "ET", "BraTS20_Training_001"),
    ]
    save(draw(Scan.read(find_case(case))), tmp_path / "view.png", width=1000)
    shown = imread(BytesIO(picture._repr_png_()))
    assert np.array_equal(shown, imread(tmp_path / "view.png")) and shown.shape[1] <= 1000
    picture.save(tmp_path / "shown.png")
    assert np.array_equal(imread(tmp_path / "shown.png"), shown)


def test_modalities_prediction_and_point_are_chosen(case: Path) -> None:
    mask = case / "BraTS20_Training_001_seg.nii.gz"
    picture = raum_lightning.show(case, prediction=mask, modalities=["t1ce"], point=(1, 2, 3), width=300)
    assert titles(picture) == ["T1ce", "reference", "prediction", "disagreement", "BraTS20_Training_001"]
    said = " ".join(text.get_text() for text in picture.figure.texts)
    assert "Dice   WT 1.000   TC 1.000   ET 1.000" in said and "k = 3" in said
    assert imread(BytesIO(picture.png)).shape[1] <= 300
    with pytest.raises(FigureError, match="outside the volume"):
        raum_lightning.show(case, point=(99, 0, 0))
    with pytest.raises(CaseError, match="no such"):
        raum_lightning.show(case / "absent")


@pytest.mark.slow
def test_a_segmentation_is_drawn_beside_the_reference(case: Path, tmp_path: Path) -> None:
    result = Segmenter([Handmade()], CARD, device="cpu").segment(case)
    picture = raum_lightning.show(result)
    assert titles(picture)[:5] == ["FLAIR", "T1ce", "T2", "reference", "prediction"]
    result.save(tmp_path / "seg.nii.gz")
    same = raum_lightning.show(case, prediction=tmp_path / "seg.nii.gz", modalities=["flair", "t1ce", "t2"])
    assert picture.png == same.png
    # without a reference: the prediction alone
    (case / "BraTS20_Training_001_seg.nii.gz").unlink()
    assert titles(raum_lightning.show(result.case.images))[:4] == ["FLAIR", "T1", "T1ce", "T2"]
    alone = Segmenter([Handmade()], CARD, device="cpu").segment(case)
    assert titles(raum_lightning.show(alone)) == ["FLAIR", "T1ce", "T2", "prediction", "BraTS20_Training_001"]


def test_a_reference_is_drawn_in_the_classes_of_the_segmentation(case: Path) -> None:
    """Classes have other indices in a data set that counts them otherwise; names decide."""
    labels = tiny_volumes()[1]  # 1 NCR, 2 ED, 3 ET
    result = Segmenter([Handmade()], CARD, device="cpu").segment(case)
    about = {"name": "other", "images": {"flair": "{case}"}, "labels": {1: "ET", 2: "NCR", 3: "ED"}}
    other = parse(about, "other")
    scan = _scan_of(replace(result, labels=labels, data_set=other), None)
    assert scan.dataset == other and scan.reference is not None and scan.prediction is not None
    assert np.array_equal(scan.reference, np.array([0, 2, 3, 1], np.uint8)[labels])
    assert np.array_equal(scan.prediction, scan.reference)
    with pytest.raises(CaseError, match=r"its mask has .* \(brats2020\), which brats-men-rt lacks"):
        _scan_of(replace(result, data_set=load("brats-men-rt")), None)
