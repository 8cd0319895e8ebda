import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from conftest import AFFINE, SHAPE, tiny_volumes, write_brats, write_msd

from raum_lightning.cases import CaseError, write_mask
from raum_lightning.discovery import find_case, find_cases
from raum_lightning.labels import EDITIONS

ALL = ("flair", "t1", "t1ce", "t2")


@pytest.mark.parametrize(
    ("edition", "name"),
    [
        ("brats2020", "BraTS20_Training_001"),
        ("brats2021", "BraTS2021_00000"),
        ("brats2023", "BraTS-GLI-00000-000"),
    ],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_every_edition_is_found_and_read_alike(tmp_path: Path, edition: str, name: str, ending: str) -> None:
    write_brats(tmp_path / "deeper", name, EDITIONS[edition], ending=ending)
    (case,) = find_cases(tmp_path)
    image, label, affine = case.read_labelled(ALL)
    images, labels = tiny_volumes()
    assert (case.id, case.edition.name, case.verify(ALL)) == (name, edition, [])
    np.testing.assert_array_equal(image, np.stack([images[modality] for modality in ALL]))
    np.testing.assert_array_equal(label, labels)
    np.testing.assert_array_equal(affine, AFFINE)


def test_msd_is_read_by_its_dataset_json(tmp_path: Path) -> None:
    write_msd(tmp_path, 2)
    content = json.loads((tmp_path / "dataset.json").read_text())
    # another order of channels and other words: what the file says counts
    first, second, test = find_cases(tmp_path)
    image, label, _ = second.read_labelled(("t1ce", "flair"))
    images, labels = tiny_volumes(2)
    np.testing.assert_array_equal(image, np.stack([images["t1ce"], images["flair"]]))
    np.testing.assert_array_equal(label, labels)
    assert (first.id, test.id, test.label) == ("BRATS_001", "BRATS_900", None)

    content["modality"] = {"0": "T2w", "1": "T1w", "2": "T1gd", "3": "FLAIR"}
    content["labels"] = {"background": 0, "whole edema": 3, "necrosis": 1, "enhancing": 2}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    case = find_cases(tmp_path)[0]
    np.testing.assert_array_equal(case.read(["flair"])[0][0], tiny_volumes(1)[0]["t2"])
    assert case.edition.classes == {0: 0, 3: 2, 1: 1, 2: 3}


def test_case_355_of_2020_has_its_mask(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "BraTS20_Training_355", EDITIONS["brats2020"], ending=".nii")
    (folder / "BraTS20_Training_355_seg.nii").rename(folder / "W39_1998.09.19_Segm.nii")
    assert find_case(tmp_path).verify(ALL) == []


def test_2024_must_be_declared(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "BraTS-GLI-02073-100", EDITIONS["brats2023"])
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:9, 5:9, 5:9] = 4
    nib.save(nib.Nifti1Image(mask, AFFINE), folder / "BraTS-GLI-02073-100-seg.nii.gz")
    (problem,) = find_case(tmp_path).verify(ALL)
    assert "BraTS-GLI-02073-100-seg.nii.gz: label 4" in problem and "edition: brats2024" in problem
    label, _ = find_case(tmp_path, "brats2024").read_label()
    assert set(np.unique(label)) == {0, 4}


def test_what_is_wrong_is_said_by_file(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "a", EDITIONS["brats2020"])
    (folder / "a_t1.nii.gz").unlink()
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.int16), AFFINE), folder / "a_t2.nii.gz")
    moved = AFFINE.copy()
    moved[0, 3] += 2.5
    nib.save(nib.Nifti1Image(tiny_volumes()[0]["t1ce"], moved), folder / "a_t1ce.nii.gz")
    mask = np.zeros(SHAPE, np.uint8)
    mask[9] = 7
    nib.save(nib.Nifti1Image(mask, AFFINE), folder / "a_seg.nii.gz")
    problems = find_case(tmp_path).verify(ALL)
    assert problems[0] == "missing: t1"
    assert any("a_t1ce.nii.gz: affine differs from that of a_flair.nii.gz by up to 2.5 mm" in p for p in problems)
    assert any("a_t2.nii.gz: every voxel is 1" in p for p in problems)
    assert any("a_seg.nii.gz: label 7 is not one of brats2020" in p for p in problems)
    assert len(problems) == 4


@pytest.mark.parametrize("damage", ["text", "truncated", "empty"])
def test_an_unreadable_file_is_named(tmp_path: Path, damage: str) -> None:
    folder = write_brats(tmp_path, "a", EDITIONS["brats2020"])
    path = folder / "a_flair.nii.gz"
    content = path.read_bytes()
    path.write_bytes({"text": b"no nifti", "truncated": content[: len(content) // 2], "empty": b""}[damage])
    with pytest.raises(CaseError, match=r"a_flair\.nii\.gz: cannot be read as NIfTI"):
        find_case(tmp_path).read(ALL)
    assert len(find_case(tmp_path).verify(ALL)) == 1


def test_nan_is_counted(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "a", EDITIONS["brats2020"])
    volume = np.ones(SHAPE, np.float32)
    volume[0, 0, :3] = np.nan
    nib.save(nib.Nifti1Image(volume, AFFINE), folder / "a_t2.nii.gz")
    with pytest.raises(CaseError, match="3 voxels are NaN or infinite"):
        find_case(tmp_path).read(["flair", "t2"])


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    write_brats(tmp_path / "store", "a", EDITIONS["brats2020"])
    root = tmp_path / "root"
    root.mkdir()
    (root / "data").symlink_to(tmp_path / "store")
    (root / "circle").symlink_to(root)
    assert [case.id for case in find_cases(root)] == ["a"]


def test_finding_nothing_or_double_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="no such folder"):
        find_cases(tmp_path / "none")
    with pytest.raises(CaseError, match="no cases found"):
        find_cases(tmp_path)
    with pytest.raises(CaseError, match="edition 'brats2019' is unknown; it is one of auto, brats2020"):
        find_cases(tmp_path, "brats2019")
    write_brats(tmp_path / "one", "a", EDITIONS["brats2020"])
    write_brats(tmp_path / "two", "a", EDITIONS["brats2020"])
    with pytest.raises(CaseError, match="case a is in both"):
        find_cases(tmp_path)


def test_two_files_for_one_modality_are_a_problem(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "a", EDITIONS["brats2020"])
    (folder / "a_t1.nii").write_bytes(gzip.decompress((folder / "a_t1.nii.gz").read_bytes()))
    assert "two files for t1" in find_case(tmp_path).verify(ALL)[0]


def test_a_written_mask_lies_on_its_case(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "a", EDITIONS["brats2020"])
    source = nib.load(folder / "a_flair.nii.gz")
    source.set_qform(AFFINE, 2)
    source.set_sform(AFFINE, 1)
    nib.save(source, folder / "a_flair.nii.gz")
    case = find_case(tmp_path)
    labels, _ = case.read_label()
    write_mask(tmp_path / "out" / "a.nii.gz", labels, case, "flair")
    written = nib.load(tmp_path / "out" / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), EDITIONS["brats2020"].decode(labels))
    np.testing.assert_array_equal(written.affine, source.affine)
    assert written.get_data_dtype() == np.uint8
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (2, 1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.nii.gz"]
