"""Descriptions of data sets: what a YAML file may say, and what those that come with the package do say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from raum_lightning.datasets import IGNORED, DataSet, load, names, parse, presets
from raum_lightning.datasets.known import FOLDER
from raum_lightning.errors import ConfigError, LabelError

OWN: dict[str, Any] = {
    "name": "mine",
    "images": {"flair": "{case}/*_FLAIR.nii.gz", "t1ce": ["{case}/*_T1GD", "{case}/*_t1c"]},
    "mask": "{case}/*_segm",
    "labels": {4: "ET", 1: "NCR", 2: "ED"},
    "regions": {"WT": ["NCR", "ED", "ET"], "TC": ["NCR", "ET"], "ET": "ET"},
    "patient": r"(.+)_\d+",
    "colours": {"ET": "#ffd54d"},
    "ignore": 255,
}


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_a_file_becomes_a_data_set(tmp_path: Path) -> None:
    mine = load(write(tmp_path, yaml.safe_dump(OWN, sort_keys=False)))
    assert mine.classes == ("background", "ET", "NCR", "ED")
    assert mine.regions == {"WT": (1, 2, 3), "TC": (1, 2), "ET": (1,)}
    assert mine.indices == {0: 0, 4: 1, 1: 2, 2: 3, 255: IGNORED}
    assert mine.images == {"flair": ("{case}/*_FLAIR.nii.gz",), "t1ce": ("{case}/*_T1GD", "{case}/*_t1c")}
    assert (mine.num_classes, mine.background, mine.scoring, mine.tumour) == (4, 0.0, "default", (1, 2, 3))


def test_only_images_mask_and_labels_are_needed(tmp_path: Path) -> None:
    mine = load(write(tmp_path, 'images: {scan: "*/{case}/scan"}\nmask: "*/{case}/tumor"\nlabels: {7: tumour}\n'))
    assert (mine.name, mine.regions, mine.classes) == ("mine", {"tumour": (1,)}, ("background", "tumour"))


@pytest.mark.parametrize("name", names())
def test_what_a_data_set_says_of_itself_makes_it_again(name: str) -> None:
    one = load(name)
    again = parse(json.loads(json.dumps(one.describe())), "again")
    assert again == one and list(again.labels) == list(one.labels) and again.source


def test_a_file_with_channels_is_split(tmp_path: Path) -> None:
    text = 'images: {file: "imagesTr/{case}", channels: [t2, flair]}\nmask: "labelsTr/{case}"\nlabels: {1: a}\n'
    mine = load(write(tmp_path, text))
    assert mine.channels == {"t2": 0, "flair": 1}
    assert parse(mine.describe(), "again") == mine


@pytest.mark.parametrize(
    ("name", "on_disk", "classes", "regions"),
    [
        ("brats2018", [1, 2, 4], "NCR ED ET", "WT TC ET"),
        ("brats2020", [1, 2, 4], "NCR ED ET", "WT TC ET"),
        ("brats2021", [1, 2, 4], "NCR ED ET", "WT TC ET"),
        ("brats2023", [1, 2, 3], "NCR ED ET", "WT TC ET"),
        ("brats2024", [1, 2, 3, 4], "NCR ED ET RC", "WT TC ET RC"),
        ("brats2025", [1, 2, 3, 4], "NCR ED ET RC", "WT TC ET RC"),
        ("brats-ped-2023", [1, 2, 3], "NCR ED ET", "WT TC ET"),
        ("brats-ped", [1, 2, 3, 4], "ET NET CC ED", "WT TC ET NET CC ED"),
        ("brats-men", [1, 2, 3], "NCR ED ET", "WT TC ET"),
        ("brats-men-rt", [1], "GTV", "GTV"),
        ("brats-met-2023", [1, 2, 3], "NCR ED ET", "WT TC ET"),
        ("brats-met", [1, 2, 3, 4], "NCR ED ET RC", "WT TC ET RC"),
        ("brats-ssa", [1, 2, 3], "NCR ED ET", "WT TC ET"),
        ("brats-goat", [1, 2, 3], "NCR ED ET", "WT TC ET"),
        ("msd-task01", [2, 1, 3], "NCR ED ET", "WT TC ET"),
        ("ucsf-pdgm", [1, 2, 4], "NCR ED ET", "WT TC ET"),
        ("upenn-gbm", [1, 2, 4], "NCR ED ET", "WT TC ET"),
        ("bids", [1], "tumour", "tumour"),
    ],
)
def test_label_values_classes_and_regions(name: str, on_disk: list[int], classes: str, regions: str) -> None:
    known = load(name)
    assert known.classes[1:] == tuple(classes.split()) and list(known.regions) == regions.split()
    indices = np.arange(1 + len(on_disk), dtype=np.uint8)
    np.testing.assert_array_equal(known.encode(np.array([0, *on_disk], np.float32)), indices)
    np.testing.assert_array_equal(known.decode(indices), [0, *on_disk])


def test_the_regions_of_gliomas() -> None:
    """WT = NCR + ED + ET, TC = NCR + ET where these classes are, and RC itself; children's WT is all, TC all but ED."""
    for name, known in presets().items():
        if known.classes[1:4] == ("NCR", "ED", "ET"):
            cavity = {"RC": (4,)} if "RC" in known.classes else {}
            assert known.regions == {"WT": (1, 2, 3), "TC": (1, 3), "ET": (3,)} | cavity, name
    assert load("brats-ped").regions["WT"] == (1, 2, 3, 4) and load("brats-ped").regions["TC"] == (1, 2, 3)


def test_several_values_of_one_class_are_read_and_the_first_is_written() -> None:
    old = load("brats2013")
    np.testing.assert_array_equal(old.encode(np.array([0, 1, 2, 3, 4])), [0, 1, 2, 1, 3])
    np.testing.assert_array_equal(old.decode(np.array([0, 1, 2, 3])), [0, 1, 2, 4])


def test_the_old_name_of_msd_stays() -> None:
    assert load("msd") is load("msd-task01")


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ([0, 3, 3, 1], r"label 3 is not one of mine's \[0, 1, 2, 4, 255\] \(2 voxels\)"),
        ([0, 0.5], r"label 0.5 is not one of mine's .* \(1 voxels\)"),
        ([0, 1.002], r"label 1\.00199"),
        ([np.nan, 1], "label nan"),
        ([-1, 1, 300], "label -1, 300 is not"),
    ],
)
def test_a_value_that_is_not_declared_is_named_and_counted(mask: list[float], said: str) -> None:
    with pytest.raises(LabelError, match=said):
        parse(OWN, "mine").encode(np.array(mask, np.float32))


def test_whole_numbers_are_read_from_floats_within_a_thousandth() -> None:
    mine = parse(OWN, "mine")
    np.testing.assert_array_equal(mine.encode(np.array([0, 0.9995, 4.0009, 254.9991], np.float32)), [0, 2, 1, IGNORED])


def test_a_class_without_a_label_cannot_be_written() -> None:
    with pytest.raises(LabelError, match="brats2020 has no label for class 4, only for background, NCR, ED, ET"):
        load("brats2020").decode(np.array([0, 4]))


def test_values_above_255_are_kept() -> None:
    mine = parse(OWN | {"labels": {1001: "a", 7: "b"}, "regions": None, "colours": None}, "mine")
    values = np.array([0, 7, 1001, 255], np.float32)
    np.testing.assert_array_equal(mine.decode(mine.encode(values)), values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": {1: "a"}}, "mine.yaml: label is no key of a data set; its keys are background"),
        ({"labels": {True: "a"}}, "labels has True, which is no label value"),
        ({"labels": {1.5: "a"}}, "labels has 1.5, which is no label value"),
        ({"labels": {1: False}}, "labels holds False, which is not a valid name"),
        ({"labels": {0: "a", 1: "b"}}, "labels calls 0 'a'; 0 is background"),
        ({"labels": {}}, "labels is {}; give something like"),
        ({"labels": ["a"]}, r"labels is \['a'\]; give something like"),
        ({"regions": {"WT": ["XY"]}}, "regions.WT names XY, no class of labels: ET, NCR, ED"),
        ({"regions": {"WT": ["ET"], "wt": ["ED"]}}, "regions has wt twice"),
        ({"regions": {"mean": ["ET"]}}, "or calls one mean; rename it"),
        ({"regions": {"WT": []}}, r"regions.WT is \[\]; give a list of classes"),
        ({"regions": {"WT": [["ET"]]}}, r"regions.WT names \['ET'\], no class of labels"),
        ({"regions": None, "labels": {1: "a", 2: "A"}, "colours": None}, "regions has A twice"),
        ({"regions": None, "labels": {1: "mean"}, "colours": None}, "or calls one mean; rename it"),
        ({"labels": {1: "NCR", "1": "ED"}}, "labels has 1 twice"),
        ({"images": {"file": "{case}", "channels": "flair"}}, "is 'flair'; give a list of names in the file's order"),
        ({"images": {"file": "{case}", "channels": {"flair": 1}}}, "give a list of names in the file's order"),
        ({"images": {"flair": "*_flair.nii.gz"}}, r"images.flair is '\*_flair.nii.gz'; give a pattern with {case}"),
        ({"images": {"flair": "{case:[}/a"}}, "cannot be understood"),
        ({"images": {"flair": "/data/{case}_flair"}}, "patterns begin below the root"),
        ({"images": {"flair": "../{case}_flair"}}, "patterns begin below the root"),
        ({"images": None}, "images is None; give something like"),
        ({"images": {"file": "{case}", "channels": ["a", "a"]}}, "name each channel of the file, and each once"),
        ({"patient": "(a)(b)"}, "which has 2 groups; give it one"),
        ({"patient": "("}, r"patient holds '\(', no regular expression"),
        ({"colours": {"XX": "#000000"}}, "colours names XX, no class of labels"),
        ({"colours": {"ET": "yellow"}}, "colours.ET is 'yellow'; give six digits"),
        ({"background": "some"}, "background is 'some'; give a number, none, or the pattern of a brain mask"),
        ({"ignore": 4}, "ignore is 4; give the one value"),
        ({"scoring": "best"}, "scoring is 'best'; it is one of default, brats20"),
        ({"name": "a b"}, "name holds 'a b', which is not a valid name"),
    ],
)
def test_a_mistake_is_one_sentence(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        parse(OWN | change, "mine.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("labels: {1: NCR, 1: ED}", "mine.yaml: has the key 1 twice, in lines 1 and 1"),
        ("a: [", "mine.yaml: is not valid YAML"),
        ("- a", "mine.yaml: does not describe a data set"),
        ("name: !!python/object/apply:os.system [ls]", "mine.yaml: is not valid YAML"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(write(tmp_path, text))


def test_a_name_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"data set 'brats2019' is unknown; give a YAML file, a dataset\.json or one of auto"
    ):
        load("brats2019")
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        load(tmp_path / "none.yaml")


def test_every_file_begins_with_what_it_is_for() -> None:
    for name in names():
        assert (FOLDER / f"{name}.yaml").read_text().startswith("# "), name


def test_a_data_set_is_frozen() -> None:
    with pytest.raises(AttributeError):
        load("brats2020").name = "other"  # type: ignore[misc]
    assert isinstance(load("brats2020"), DataSet)


@pytest.mark.parametrize(
    ("name", "case", "role", "path"),
    [
        ("brats2020", "a", "flair", "a/a_flair.nii.gz"),
        ("brats-men-rt", "b", "mask", "b/b_gtv.nii.gz"),
        ("bids", "sub-1", "t1ce", "sub-1/anat/sub-1_ce-x_T1w.nii.gz"),
        ("msd-task01", "c", "t2", "imagesTr/c.nii.gz"),
    ],
)
def test_where_a_file_is_written(name: str, case: str, role: str, path: str) -> None:
    assert load(name).file_name(case, role) == path
    own = parse(OWN | {"images": {"scan": "*/{case}/scan.nii"}}, "mine")
    assert own.file_name("p1", "scan") == "x/p1/scan.nii"


@pytest.mark.parametrize(
    ("name", "case", "file"),
    [
        ("brats2020", "BraTS20_Training_001", "BraTS20_Training_001.nii.gz"),
        ("bids", "sub-1_ses-2", "sub-1_ses-2_dseg.nii.gz"),
        ("ucsf-pdgm", "UCSF-PDGM-0004", "UCSF-PDGM-0004_tumor_segmentation.nii.gz"),
        ("upenn-gbm", "UPENN-GBM-00001_11", "UPENN-GBM-00001_11_segm.nii.gz"),
    ],
)
def test_how_a_predicted_mask_is_called(name: str, case: str, file: str) -> None:
    assert load(name).prediction_file(case) == file
    assert load(name).predicted(file.removesuffix(".nii.gz")) == case


def test_a_predicted_mask_of_ones_own_data_set() -> None:
    own = parse(OWN | {"prediction": "pred.{case}"}, "mine")
    assert own.prediction_file("p1") == "pred.p1.nii.gz"
    assert own.predicted("PRED.p1") == "p1" and own.predicted("predXp1") is None
    for wrong in ("mask", "a/{case}", "{case}.nii.gz", "{case}{case}", 3):
        with pytest.raises(ConfigError, match=r"mine: prediction is .*; give a file name without ending"):
            parse(OWN | {"prediction": wrong}, "mine")
