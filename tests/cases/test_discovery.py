"""Which cases are found, and as what: names of every data set, dataset.json, and what is refused."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from raum_lightning.cases.discovery import find_case, find_cases, is_image, recognise
from raum_lightning.cases.matching import Listing
from raum_lightning.datasets import load, names, parse
from raum_lightning.datasets.description import compiled
from raum_lightning.errors import CaseError
from tests.helpers.cases import AFFINE, tiny_volumes, write_brats

ID = {
    "brats2013": "BRATS2013_0003",
    "brats2018": "Brats18_CBICA_AQN_1",
    "brats2020": "BraTS20_Training_001",
    "brats2021": "BraTS2021_00000",
    "brats2023": "BraTS-GLI-00000-000",
    "brats-men": "BraTS-MEN-00004-000",
    "brats-men-rt": "BraTS-MEN-RT-0001-1",
    "brats-met-2023": "BraTS-MET-00002-000",
    "brats-ssa": "BraTS-SSA-00002-000",
    "brats-goat": "BraTS-GoAT-00002",
    "ucsf-pdgm": "UCSF-PDGM-0429_FU003d",
    "upenn-gbm": "UPENN-GBM-00001_11",
    "bids": "sub-01_ses-2",
}


def touch(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize("name", ID)
def test_every_data_set_is_recognised_by_its_names(tmp_path: Path, name: str) -> None:
    known, case = load(name), ID[name]
    touch(tmp_path, *(known.file_name(case, role) for role in (*known.images, "mask")))
    (found,) = find_cases(tmp_path)
    assert (found.id, found.dataset.name, set(found.images)) == (case, name, set(known.images))
    assert found.label is not None


def test_every_data_set_that_can_be_recognised_is_tested() -> None:
    assert set(names()) - set(ID) == {
        "brats2024",
        "brats2025",
        "brats-ped",
        "brats-ped-2023",
        "brats-met",
        "msd-task01",
        "nnunet",
    }


def test_what_two_data_sets_read_differently_is_refused_until_declared(tmp_path: Path) -> None:
    known = load("brats-ped")
    touch(tmp_path, *(known.file_name("BraTS-PED-00001-000", role) for role in (*known.images, "mask")))
    said = (
        "case BraTS-PED-00001-000: is called as those of brats-ped-2023 and brats-ped, in which label 1 is NCR and ET"
    )
    with pytest.raises(CaseError, match=f"{said}; declare which it is with data.dataset or --dataset"):
        find_cases(tmp_path)
    for name in ("brats-ped", "brats-ped-2023"):
        assert find_case(tmp_path, name).dataset.name == name
    assert find_case(tmp_path, prefer=known).dataset is known
    with pytest.raises(CaseError, match="brats-ped-2023 and brats-ped"):
        recognise("BraTS-PED-00001-000")


def test_names_of_2023_are_2023_until_2024_is_declared(tmp_path: Path) -> None:
    write_brats(tmp_path, "BraTS-GLI-00001-000", load("brats2024"))
    assert find_case(tmp_path).dataset.name == "brats2023"
    assert find_case(tmp_path, "brats2024").dataset.name == "brats2024"


def test_a_declared_data_set_reads_its_label_values_from_files_named_by_another(tmp_path: Path) -> None:
    """BraTS 2023 names with 4 for ET, a common conversion."""
    folder = write_brats(tmp_path, "BraTS-GLI-00001-000", load("brats2023"))
    mask = load("brats2021").decode(tiny_volumes()[1])
    nib.save(nib.Nifti1Image(mask, AFFINE), folder / "BraTS-GLI-00001-000-seg.nii.gz")
    np.testing.assert_array_equal(find_case(tmp_path, "brats2021").read_label()[0], tiny_volumes()[1])


def test_classes_that_a_challenge_never_has_are_refused(tmp_path: Path) -> None:
    write_brats(tmp_path, "BraTS-PED-00001-000", load("brats2023"))
    said = (
        r"called as those of brats-ped and brats-ped-2023, whose classes are not those of brats2024 \(NCR, ED, ET, RC\)"
    )
    with pytest.raises(CaseError, match=said):
        find_cases(tmp_path, "brats2024")
    assert find_cases(tmp_path, parse(load("brats2024").describe() | {"name": "mine"}, "mine"))


def test_ids_say_more_than_the_ends_of_names(tmp_path: Path) -> None:
    touch(tmp_path, "BraTS-GLI-00001-000_flair.nii.gz", "a-t2f.nii.gz", "b_flair.nii")
    found = {case.id: case.dataset.name for case in find_cases(tmp_path)}
    assert found == {"BraTS-GLI-00001-000": "brats2023", "a": "brats2023", "b": "brats2020"}


def test_a_folder_called_like_a_file_stands_for_the_file_in_it(tmp_path: Path) -> None:
    """BraTS 2021 as Kaggle unpacks it."""
    case = "BraTS2021_00000"
    touch(tmp_path, *(f"{case}/{case}_{role}.nii/00000057_brain_{role}.nii" for role in ("flair", "t1", "t1ce", "t2")))
    touch(tmp_path, f"{case}/{case}_seg.nii/00000057_final_seg.nii")
    found = find_case(tmp_path)
    assert (found.id, set(found.images), found.dataset.name) == (case, {"flair", "t1", "t1ce", "t2"}, "brats2021")
    assert found.label == tmp_path / case / f"{case}_seg.nii/00000057_final_seg.nii"


def test_masks_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    case = "UPENN-GBM-00001_11"
    touch(tmp_path, f"images_structural/{case}/{case}_T1GD.nii.gz", f"images_segm/{case}_segm.nii.gz")
    touch(tmp_path, f"automated_segm/{case}_automated_approx_segm.nii.gz")
    assert find_case(tmp_path).label == tmp_path / "images_segm" / f"{case}_segm.nii.gz"


@pytest.mark.parametrize(
    ("pattern", "path", "case"),
    [
        ("{case}/*_FLAIR.nii.gz", "a1/x_FLAIR", "a1"),
        ("{case}/*_FLAIR.nii.gz", "deep/a1/x_FLAIR", None),
        ("**/{case}/scan", "north/a1/scan", "a1"),
        ("**/{case}/scan", "a1/scan", "a1"),
        ("*/{case}/scan", "north/a1/scan", "a1"),
        ("*/{case}/scan", "a1/scan", None),
        ("{case}/{case}_t1", "a/a_T1", "a"),
        ("{case}/{case}_t1", "a/b_t1", None),
        ("**/{case}_t1", "a_t1ce", None),
        ("**/{case}[_-]t1c", "a-t1c", "a"),
        ("**/{case}[!_]t1c", "a_t1c", None),
        ("{case:sub-[^_/]+}_T1w", "sub-01_T1w", "sub-01"),
        ("{case:sub-[^_/]+}_T1w", "sub-01_ce-gd_T1w", None),
        ("a.b/{case}+(1)?", "a.b/x+(1)y", "x"),
    ],
)
def test_patterns(pattern: str, path: str, case: str | None) -> None:
    match = compiled(pattern).fullmatch(path)
    assert (match and match["case"]) == case


def test_a_pattern_with_an_ending_fits_only_that(tmp_path: Path) -> None:
    listing = Listing.of(touch(tmp_path, "a/scan.nii", "b/scan.nii.gz", "c/SCAN.NII"))
    assert set(listing.matches("{case}/scan.nii")) == {"a", "c"}
    assert set(listing.matches("{case}/scan.nii.gz")) == {"b"}
    assert set(listing.matches("{case}/scan")) == {"a", "b", "c"}


MINE = {"images": {"scan": "*/{case}/scan.nii"}, "mask": "*/{case}/tumor.nii", "labels": {7: "tumour"}, "name": "mine"}


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    touch(tmp_path, "north/p1/scan.nii", "north/p1/tumor.nii", "south/p2/scan.nii")
    one, two = find_cases(tmp_path, parse(MINE, "mine"))
    assert (one.id, two.id, one.label, two.label) == ("p1", "p2", tmp_path / "north/p1/tumor.nii", None)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["p1/scan.nii"], r"no cases found; no file fits \*/{case}/scan.nii, the scan of data set mine"),
        (["a/p1/scan.nii", "b/p1/scan.nii"], "case p1 is in both .*/a/p1 and .*/b/p1; remove one"),
        (["a/p1/tumor.nii"], "no cases found"),
    ],
)
def test_what_is_wrong_with_files_of_ones_own_is_one_sentence(tmp_path: Path, files: list[str], said: str) -> None:
    touch(tmp_path, *files)
    with pytest.raises(CaseError, match=said):
        find_cases(tmp_path, parse(MINE, "mine"))


def test_two_files_for_one_modality_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a/p1/one_FLAIR.nii", "a/p1/two_FLAIR.nii")
    (found,) = find_cases(tmp_path, parse(MINE | {"images": {"flair": "*/{case}/*_FLAIR"}}, "mine"))
    assert found.problems[0].startswith("two files for flair: ") and "one_FLAIR.nii" in found.problems[0]


def test_images_of_any_data_set_are_no_masks() -> None:
    assert is_image("BraTS-GLI-00001-000-t2f") and is_image("x_FLAIR") and is_image("BraTS-MEN-RT-0001-1_t1c")
    assert not is_image("BraTS-GLI-00001-000") and not is_image("x_seg")


def index(root: Path, content: object) -> None:
    (root / "dataset.json").write_text(json.dumps(content))


DECATHLON = {"modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"}}


@pytest.mark.parametrize("word", ["nonenhancing tumor", "non enhancing", "non_enhancing", "Unenhancing", "necrosis"])
def test_every_word_for_what_does_not_enhance_is_ncr(tmp_path: Path, word: str) -> None:
    labels = {"0": "background", "1": "edema", "2": word, "3": "enhancing tumor"}
    index(tmp_path, DECATHLON | {"labels": labels, "training": [{"image": "a.nii.gz", "label": "b.nii.gz"}]})
    (case,) = find_cases(tmp_path)
    assert case.dataset.labels == {2: "NCR", 1: "ED", 3: "ET"} and case.dataset.name == "msd-task01"


def test_two_labels_of_one_class_are_refused(tmp_path: Path) -> None:
    labels = {"0": "background", "1": "edema", "2": "necrosis", "3": "non-enhancing tumor"}
    index(tmp_path, DECATHLON | {"labels": labels, "training": [{"image": "a.nii.gz", "label": "b.nii.gz"}]})
    with pytest.raises(CaseError, match=r"dataset\.json: .*two are the same class"):
        find_cases(tmp_path)


def test_another_task_of_the_decathlon_has_the_classes_that_it_names(tmp_path: Path) -> None:
    content = {"name": "Heart", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "left atrium"}}
    index(tmp_path, content | {"training": [{"image": "a.nii.gz", "label": "b.nii.gz"}]})
    (case,) = find_cases(tmp_path)
    assert (case.dataset.name, case.dataset.classes) == ("Heart", ("background", "left_atrium"))
    assert case.channels == {"MRI": 0}
    with pytest.raises(CaseError, match="is not msd-task01"):
        find_cases(tmp_path, "msd")


@pytest.mark.parametrize(
    "content",
    [
        {"training": [{"image": ["a", "b"], "label": "c"}]},
        DECATHLON | {"labels": {"0": "background"}, "training": [{"image": ["a", "b"], "label": "c"}]},
        {"training": [{"image": 1, "label": 2}]},
        DECATHLON | {"modality": {"a": "FLAIR"}, "training": [{"image": "a", "label": "b"}]},
        [1, 2],
    ],
)
def test_a_dataset_json_of_another_kind_leaves_the_names(tmp_path: Path, content: object) -> None:
    index(tmp_path, content)
    with pytest.raises(CaseError, match=r"no cases found; .*dataset\.json: .* --dataset"):
        find_cases(tmp_path)
    write_brats(tmp_path, "BraTS2021_00001", load("brats2021"))
    assert [case.dataset.name for case in find_cases(tmp_path)] == ["brats2021"]


def nnunet(root: Path, **more: object) -> Path:
    touch(
        root, *(f"imagesTr/c{n}_000{channel}.nii.gz" for n in (1, 2) for channel in (0, 1)), "imagesTs/c3_0000.nii.gz"
    )
    touch(root, "labelsTr/c1.nii.gz", "labelsTr/c2.nii.gz")
    content = {"channel_names": {"0": "T1w", "1": "FLAIR"}, "numTraining": 2, "file_ending": ".nii.gz"}
    index(root, content | more)
    return root


@pytest.mark.parametrize("declared", ["auto", "nnunet"])
def test_an_nnunet_folder_is_read_as_it_is(tmp_path: Path, declared: str) -> None:
    nnunet(tmp_path, labels={"background": 0, "edema": 1, "core of it": 2, "ignore": 3})
    one, _, three = find_cases(tmp_path, declared)
    assert (one.id, three.id, one.dataset.classes) == ("c1", "c3", ("background", "edema", "core_of_it"))
    assert one.images["FLAIR"] == tmp_path / "imagesTr/c1_0001.nii.gz" and three.label is None
    assert three.held_out and not one.held_out
    assert one.dataset.ignore == 3 and one.dataset.splits == "splits_final.json"


VERSION_1 = {
    "modality": {"0": "T1w", "1": "FLAIR"},
    "labels": {"0": "background", "1": "edema"},
    "training": [{"image": f"./imagesTr/c{n}.nii.gz", "label": f"./labelsTr/c{n}.nii.gz"} for n in (1, 2)],
    "test": ["./imagesTs/c3.nii.gz"],
}


def test_nnunet_version_1_and_a_list_of_msd_that_was_kept(tmp_path: Path) -> None:
    nnunet(tmp_path / "new", labels={"background": 0, "edema": 1}, training=VERSION_1["training"])
    index(nnunet(tmp_path / "old"), VERSION_1)
    for root in ("new", "old"):
        one, _, three = find_cases(tmp_path / root)
        assert one.images["FLAIR"] == tmp_path / root / "imagesTr/c1_0001.nii.gz" and one.label
        assert one.dataset.labels == {1: "edema"} and three.held_out and not three.channels
        assert load(tmp_path / root / "dataset.json") == one.dataset
        assert [case.id for case in find_cases(tmp_path / root, str(tmp_path / root / "dataset.json"))] == [
            "c1",
            "c2",
            "c3",
        ]


def test_channels_of_one_name_are_told_by_their_number(tmp_path: Path) -> None:
    root = nnunet(tmp_path, labels={"background": 0, "a": 1}, channel_names={"0": "MRI", "1": "MRI"})
    assert list(find_cases(root)[0].images) == ["MRI_0", "MRI_1"]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ({"background": 0, "ncr": 1, "ed": 1}, "two have one value"),
        ({"background": 0, "a b": 1, "a_b": 2}, "differ in spaces and signs only"),
        ({"background": 0, "a b": [1, 2], "a_b": [2]}, "differ in spaces and signs only"),
        ({"background": 0, "mean": 1}, "calls one mean"),
        ({"background": 0, "core": 1, "Core": 2}, "has Core twice"),
        ({"background": 0, "core": [1, 2], "Core": [2]}, "has Core twice"),
    ],
)
def test_names_of_a_dataset_json_that_fall_together(tmp_path: Path, labels: dict[str, object], said: str) -> None:
    with pytest.raises(CaseError, match=said):
        find_cases(nnunet(tmp_path, labels=labels), "nnunet")


def test_msd_declared_by_its_own_dataset_json(tmp_path: Path) -> None:
    content = {"name": "Heart", "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "left atrium"}}
    index(tmp_path, content | {"training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"}]})
    touch(tmp_path, "imagesTr/a.nii.gz", "labelsTr/a.nii.gz")
    (case,) = find_cases(tmp_path, tmp_path / "dataset.json")
    assert (case.label, case.channels) == (tmp_path / "labelsTr/a.nii.gz", {"MRI": 0})


def test_a_folder_of_images_as_nnunet_predicts_it(tmp_path: Path) -> None:
    trained = find_cases(nnunet(tmp_path / "raw", labels={"background": 0, "edema": 1}))[0].dataset
    flat = touch(tmp_path / "new", "p1_0000.nii.gz", "p1_0001.nii.gz")
    for root, name in ((flat, "p1"), (tmp_path / "raw/imagesTs", "c3")):
        (case,) = find_cases(root, prefer=trained)
        assert (case.id, case.images["T1w"]) == (name, root / f"{name}_0000.nii.gz")
    with pytest.raises(
        CaseError, match=r"no file fits imagesT\[rs\]/{case}_0000 or {case}_0000, the T1w of data set raw"
    ):
        find_cases(touch(tmp_path / "other", "p1.nii.gz"), prefer=trained)


def test_folders_above_may_be_part_of_a_pattern(tmp_path: Path) -> None:
    own = parse(MINE | {"images": {"scan": "images/{case}_scan"}}, "mine")
    touch(tmp_path, "images/p1_scan.nii", "images/p2_scan.nii")
    assert len(find_cases(tmp_path / "images", own, above=True)) == 2
    assert len(find_cases(tmp_path / "images", prefer=own, above=True)) == 2
    with pytest.raises(CaseError, match="no cases found"):
        find_cases(tmp_path / "images", own)


def test_capitals_do_not_count_in_a_pattern_or_its_ending(tmp_path: Path) -> None:
    touch(tmp_path, "p1/scan.nii", "p2/SCAN.NII")
    about = {"name": "own", "images": {"scan": "{case}/Scan.NII"}, "mask": "{case}/seg", "labels": {1: "a"}}
    own = parse(about, "own")
    assert [case.id for case in find_cases(tmp_path, own)] == ["p1", "p2"]


def test_a_brain_mask_of_bids_is_no_tumour(tmp_path: Path) -> None:
    touch(tmp_path, *(f"sub-0{n}/anat/sub-0{n}_T1w.nii.gz" for n in (1, 2)))
    touch(tmp_path, *(f"derivatives/fmriprep/sub-0{n}/anat/sub-0{n}_desc-brain_mask.nii.gz" for n in (1, 2)))
    lesion = "derivatives/manual/sub-02/anat/sub-02_label-lesion_mask.nii.gz"
    touch(tmp_path, lesion)
    assert [case.label for case in find_cases(tmp_path, "bids")] == [None, tmp_path / lesion]


@pytest.mark.parametrize("enhancing", [[3], 3])
def test_regions_of_nnunet_are_lists_of_values_or_single_ones(tmp_path: Path, enhancing: object) -> None:
    nnunet(
        tmp_path,
        labels={"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": enhancing},
        regions_class_order=[1, 2, 3],
    )
    known = find_cases(tmp_path)[0].dataset
    assert known.classes == ("background", "label1", "label2", "enhancing")
    assert known.regions == {"whole": (1, 2, 3), "core": (2, 3), "enhancing": (3,)}


def test_nnunet_without_its_dataset_json(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"dataset\.json: no such file; data set nnunet needs it"):
        find_cases(tmp_path, "nnunet")
    nnunet(tmp_path, labels={"background": 0, "a": 1}, file_ending=".png")
    with pytest.raises(CaseError, match=re.escape("file_ending .png is not NIfTI's")):
        find_cases(tmp_path, "nnunet")
