"""Which way is up, what is painted where, and the figure of a case."""

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.image import imread
from scipy.spatial.transform import Rotation

from raum_lightning.cases.case import write_mask
from raum_lightning.cases.discovery import find_case
from raum_lightning.cli import main
from raum_lightning.datasets import IGNORED, load, parse, presets
from raum_lightning.errors import CaseError
from raum_lightning.figures import Scan, dots, draw
from raum_lightning.figures.paint import (
    AGREED,
    CONFUSED,
    ERROR_COLOURS,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    class_colours,
    errors,
    grey,
    overlay,
    rgb,
)
from raum_lightning.figures.planes import AXIAL, CORONAL, PLANES, SAGITTAL, Upright, box_around, centre, most
from raum_lightning.figures.scan import panels
from raum_lightning.labels import ED, ET, NCR, RC
from tests.helpers.cases import AFFINE, tiny_volumes, write_brats

COLOURS = class_colours(load("brats2024"))
SHAPE = (8, 10, 12)
RAS, LPS = np.eye(4), np.diag([-1.0, -1, 1, 1])


def tiny_scan(**masks: np.ndarray) -> Scan:
    images, labels = tiny_volumes()
    return Scan("tiny", {"flair": images["flair"], "t1ce": images["t1ce"]}, AFFINE, **{"reference": labels, **masks})


@pytest.mark.parametrize(("affine", "corner"), [(RAS, (7, 9, 11)), (LPS, (0, 0, 11))], ids=["RAS", "LPS"])
def test_right_anterior_superior_is_upper_left(affine: np.ndarray, corner: tuple[int, int, int]) -> None:
    volume = np.zeros(SHAPE, np.uint8)
    volume[corner] = 255
    upright = Upright(affine, SHAPE)
    for plane, letters in ((AXIAL, "RA"), (CORONAL, "RS"), (SAGITTAL, "AS")):
        at = upright.voxel(corner)
        slice_ = plane.cut(upright(volume), at[plane.axis])
        assert slice_[0, 0] == 255 and np.count_nonzero(slice_) == 1
        assert plane.left + plane.top == letters


@pytest.mark.parametrize("axes", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((-1, 1), repeat=3)))
def test_any_orientation_is_turned_as_nibabel_turns_it(axes: tuple[int, ...], signs: tuple[int, ...]) -> None:
    volume = np.random.default_rng(0).integers(0, 255, SHAPE)
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[list(axes)] * np.array(signs) * [1, 2, 3]
    affine[:3, 3] = 5, -6, 7
    canonical = nib.as_closest_canonical(nib.Nifti1Image(volume.astype(np.int16), affine))
    upright = Upright(affine, SHAPE)
    assert np.array_equal(upright(volume), np.asarray(canonical.dataobj)[::-1, ::-1, ::-1])
    assert np.allclose(upright.spacing, canonical.header.get_zooms())
    voxel = (1, 2, 3)
    at = upright.voxel(voxel)
    assert upright(volume)[at] == volume[voxel]
    world = affine @ (*voxel, 1)
    for plane in PLANES:
        axis, index = upright.index(plane, at)
        assert voxel["ijk".index(axis)] == index
        assert upright.position(plane, at) == pytest.approx(world[plane.axis])


@pytest.mark.slow
@settings(max_examples=30)
@given(st.tuples(*[st.floats(-20, 20)] * 3))
def test_an_oblique_volume_is_taken_for_its_nearest_neighbour(angles: tuple[float, float, float]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ LPS[:3, :3]
    upright = Upright(affine, SHAPE)
    assert (upright.order, upright.reverse) == ([0, 1, 2], [2])


def test_slices_hold_the_most_tumour() -> None:
    mask = np.zeros(SHAPE, bool)
    mask[2:5, 3, 4] = mask[4, 3:7, 9] = mask[4, 5, 8:11] = True
    assert most(mask) == (4, 3, 9)
    assert centre(mask[:, 3:4, 4:5]) == (3, 0, 0)
    assert box_around(mask, (1, 1, 2), 2) == (slice(0, 7), slice(1, 9), slice(3, 12))


def test_the_reference_decides_then_the_prediction_then_the_brain() -> None:
    labels = tiny_volumes()[1]
    assert tiny_scan().middle == most(labels)
    elsewhere = np.roll(labels, 9, axis=0)
    assert tiny_scan(prediction=elsewhere).middle == most(labels)
    assert tiny_scan(reference=np.zeros_like(labels), prediction=elsewhere).middle == most(elsewhere)
    cavity = np.where(labels, RC, 0).astype(np.uint8)
    assert tiny_scan(reference=cavity).middle == tiny_scan(reference=None).middle == (20, 18, 16)


def test_grey_values_span_the_brain_and_the_outside_is_black() -> None:
    shown = grey(np.array([0.0, -2, *np.linspace(-1, 3, 1000), 100]))
    assert shown[0] == 0 and shown[-1] == 255
    assert shown[1] < 2 and abs(int(shown[501]) - 127) <= 1
    assert np.all(np.diff(shown[1:].astype(int)) >= 0)


def test_a_class_has_its_colour_opaque_on_the_outline_and_sheer_within() -> None:
    codes = np.zeros((7, 7), np.uint8)
    codes[1:6, 1:6] = ED
    painted = overlay(np.full((7, 7), 100, np.uint8), codes, COLOURS, opacity=0.5)
    colour = np.array(rgb(COLOURS[ED]))
    assert np.array_equal(painted[1, 3], colour)
    assert np.allclose(painted[3, 3], (colour + 100) / 2, atol=0.5)
    assert np.array_equal(painted[0, 0], (100, 100, 100))


def test_errors_are_counted_by_kind() -> None:
    reference = np.array([0, 0, 1, 2, 3, 3, 1, 0], np.uint8)
    prediction = np.array([0, 2, 1, 0, 3, 1, 2, 1], np.uint8)
    expected = [0, FALSE_POSITIVE, AGREED, FALSE_NEGATIVE, AGREED, CONFUSED, CONFUSED, FALSE_POSITIVE]
    assert errors(reference, prediction).tolist() == expected


def test_voxels_that_are_ignored_are_neither_right_nor_wrong() -> None:
    labels = tiny_volumes()[1]
    reference = labels.copy()
    reference[:20] = IGNORED
    scan = tiny_scan(reference=reference, prediction=labels)
    known = np.ones(labels.shape, bool)
    known[:20] = False
    codes = {panel.title: panel.codes for panel in panels(scan)}
    assert np.array_equal(codes["disagreement"] == AGREED, scan.upright((labels > 0) & known))
    assert np.array_equal(codes["ED"] == AGREED, scan.upright((labels == ED) & known))
    assert np.isin(codes["disagreement"], (0, AGREED)).all() and np.isin(codes["ED"], (0, AGREED)).all()
    assert codes["reference"].max() == ET and np.array_equal(codes["prediction"], scan.upright(labels))
    said = texts(draw(scan))
    assert "false negative  0.0 ml" in said and "other class  0.0 ml" in said


def test_columns_are_modalities_masks_and_each_class_by_itself() -> None:
    scan = tiny_scan()
    columns = {panel.title: panel for panel in panels(scan)}
    assert list(columns) == ["FLAIR", "T1ce", "reference", "NCR", "ED", "ET"]
    assert scan.reference is not None
    labels = scan.upright(scan.reference)
    for name, index in (("NCR", NCR), ("ED", ED), ("ET", ET)):
        assert np.array_equal(columns[name].codes, np.where(labels == index, index, 0))
    slice_ = columns["NCR"].paint(AXIAL, scan.upright.voxel(scan.middle)[2])
    coloured = slice_.max(axis=2) != slice_.min(axis=2)
    assert np.array_equal(coloured, AXIAL.cut(labels == NCR, scan.upright.voxel(scan.middle)[2]))
    assert not columns["FLAIR"].codes.any()


def test_a_prediction_adds_itself_and_where_it_errs() -> None:
    labels = tiny_volumes()[1]
    scan = tiny_scan(prediction=np.roll(labels, 1, axis=0))
    columns = {panel.title: panel for panel in panels(scan)}
    assert list(columns) == ["FLAIR", "T1ce", "reference", "prediction", "disagreement", "NCR", "ED", "ET"]
    assert np.array_equal(columns["disagreement"].codes, errors(scan.upright(labels), scan.upright(scan.prediction)))
    enhancing = columns["ET"]
    assert enhancing.colours == ERROR_COLOURS | {AGREED: COLOURS[ET]}
    missed = (labels == ET) & (scan.prediction != ET)
    assert np.array_equal(enhancing.codes == FALSE_NEGATIVE, scan.upright(missed))
    assert [panel.title for panel in panels(scan, isolate=False)] == list(columns)[:5]


def test_the_resection_cavity_is_a_class_where_it_is_seen() -> None:
    labels = tiny_volumes()[1]
    labels[5, 5, 5] = RC
    assert [panel.title for panel in panels(tiny_scan(reference=labels))][-1] == "RC"


def texts(figure: Any) -> str:
    written = [text.get_text() for text in figure.texts]
    written += [text.get_text() for axes in figure.axes for text in axes.texts]
    return "|".join(written + [text.get_text() for legend in figure.legends for text in legend.get_texts()])


@pytest.mark.slow
def test_the_figure_says_what_is_where() -> None:
    labels = tiny_volumes()[1]
    figure = draw(tiny_scan(prediction=labels), point=(20, 10, 16))
    said = texts(figure)
    assert "Dice   WT 1.000   TC 1.000   ET 1.000" in said
    assert "sagittal\nx = -20 mm\ni = 20" in said and "coronal\ny = 229 mm\nj = 10" in said
    volumes = {index: np.count_nonzero(labels == index) / 1000 for index in (NCR, ED, ET)}
    assert f"NCR  {volumes[NCR]:.1f} ml, predicted {volumes[NCR]:.1f} ml" in said
    assert f"agree  {sum(volumes.values()):.1f} ml" in said and "false positive  0.0 ml" in said
    assert {text.get_text() for text in figure.axes[0].texts} == {"R", "L", "A", "P"}
    assert not figure.axes[1].texts  # beside it, where letters would run together
    assert said.count("on FLAIR") == 4 and said.count("on T1ce") == 2  # both masks, disagreement and ED; NCR and ET
    colours = {patch.get_facecolor()[:3] for legend in figure.legends for patch in legend.get_patches()}
    wanted = [*(COLOURS[index] for index in (NCR, ED, ET)), *ERROR_COLOURS.values()]
    assert colours == {tuple(value / 255 for value in rgb(colour)) for colour in wanted}


def test_voxels_have_the_shape_they_have_in_space() -> None:
    scan = tiny_scan()
    flat = replace(scan, affine=AFFINE @ np.diag([1, 1, 3, 1]))
    for drawn, height in ((scan, 32), (flat, 32 * 3)):
        figure = draw(drawn, isolate=False)
        coronal = figure.axes[3]  # the first of the second row
        left, right, bottom, top = coronal.get_images()[0].get_extent()
        assert (right - left, bottom - top) == (40, height)
        box, (wide, tall) = coronal.get_position(), figure.get_size_inches()
        assert (box.height * tall) / (box.width * wide) == pytest.approx(height / 40)


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_brats(tmp_path, "BraTS20_Training_001", presets()["brats2020"])


@pytest.mark.slow
def test_view_draws_a_case_its_prediction_and_a_case_without_mask(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = case / "BraTS20_Training_001_seg.nii.gz"
    prediction = tmp_path / "prediction.nii.gz"
    prediction.write_bytes(mask.read_bytes())
    widths: list[int] = []
    for words in ([], ["--prediction", str(prediction)], ["--slice", "3", "4", "5"]):
        out = tmp_path / f"new/{len(widths)}.png"
        assert main(["view", str(case), *words, "--width", "9000", "--out", str(out)]) == 0
        widths.append(imread(out).shape[1])
    assert widths[1] > widths[0] == widths[2]
    mask.unlink()
    assert main(["view", str(case), "--width", "9000", "--out", str(tmp_path / "without.png")]) == 0
    assert imread(tmp_path / "without.png").shape[1] < widths[0]
    assert "without.png: BraTS20_Training_001" in capsys.readouterr().out


def test_a_prediction_is_read_in_the_values_of_the_data_set(case: Path) -> None:
    scan = Scan.read(find_case(case), case / "BraTS20_Training_001_seg.nii.gz", ["t2", "flair"])
    assert list(scan.images) == ["t2", "flair"]
    assert np.array_equal(scan.prediction, tiny_volumes()[1])


def test_a_prediction_that_notes_its_data_set_is_read_by_it(case: Path, tmp_path: Path) -> None:
    other = find_case(write_brats(tmp_path / "new", "BraTS-GLI-00001-000", presets()["brats2023"]))
    write_mask(tmp_path / "p.nii.gz", tiny_volumes()[1], other, "flair")
    assert np.array_equal(Scan.read(find_case(case), tmp_path / "p.nii.gz").prediction, tiny_volumes()[1])


def test_a_prediction_with_more_classes_than_the_case_is_drawn_with_its_own(tmp_path: Path) -> None:
    case = find_case(write_brats(tmp_path, "BraTS-GLI-00001-000", presets()["brats2023"]))
    labels = tiny_volumes()[1]
    labels[5, 5, 5] = RC
    write_mask(tmp_path / "p.nii.gz", labels, replace(case, dataset=load("brats2024")), "flair")
    scan = Scan.read(case, tmp_path / "p.nii.gz")
    assert scan.dataset.name == "brats2024" and np.array_equal(scan.prediction, labels)
    assert "RC  0.0 ml, predicted 0.0 ml" in texts(draw(scan))
    assert Scan.read(case).dataset.name == "brats2023"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "fig.png", "--width", "1"], "--width 1: a picture has at least 100 pixels"),
        (["--out", "fig.tiff9"], "no picture can be written with the ending 'tiff9'"),
        (["--out", "fig.png", "--slice", "1", "36", "1"], "voxel (1, 36, 1) lies outside the volume of (40, 36, 32)"),
        (["--out", "fig.png", "--prediction", "none.nii.gz"], "none.nii.gz: no such file"),
        (["--out", "fig.png", "--id", "other"], "holds no case other, but BraTS20_Training_001"),
    ],
)
def test_view_says_a_mistake_in_one_sentence(
    case: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(case), *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_pictures_are_at_most_1600_pixels_wide_unless_asked(case: Path, tmp_path: Path) -> None:
    mask = str(case / "BraTS20_Training_001_seg.nii.gz")
    for words, wide in (([], 1600), (["--width", "700"], 700), (["--width", "9000"], None)):
        out = tmp_path / "a.PNG"  # its own, whatever the capitals, may be replaced
        assert main(["view", str(case), "--prediction", mask, *words, "--out", str(out)]) == 0
        shown = imread(out).shape[1]
        assert shown == pytest.approx(wide, abs=1) if wide else shown > 1600
    assert dots(draw(tiny_scan(reference=None))) == 150


def test_a_prediction_of_other_classes_is_refused(case: Path, tmp_path: Path) -> None:
    other = find_case(write_brats(tmp_path / "ped", "BraTS-PED-00001-000", load("brats2023")), "brats-ped")
    write_mask(tmp_path / "p.nii.gz", np.zeros((40, 36, 32), np.uint8), other, "flair")
    with pytest.raises(CaseError, match=r"p.nii.gz: has the classes of brats-ped \(ET, NET, CC, ED\), the case those"):
        Scan.read(find_case(case), tmp_path / "p.nii.gz")


def test_a_data_set_of_ones_own_is_drawn_with_its_classes() -> None:
    about = {"name": "own", "images": {"scan": "{case}"}, "labels": {7: "meta"}, "colours": {"meta": "#ff0000"}}
    labels = (tiny_volumes()[1] > 0).astype(np.uint8)
    scan = Scan("own", {"scan": tiny_volumes()[0]["t2"]}, AFFINE, labels, labels, parse(about, "own"))
    assert [panel.title for panel in panels(scan)] == ["scan", "reference", "prediction", "disagreement", "meta"]
    said = texts(draw(scan))
    assert "Dice   meta 1.000" in said and "on scan" in said and "meta  2.7 ml, predicted 2.7 ml" in said
