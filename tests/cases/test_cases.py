import gzip
import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from raum_lightning.cases import nifti
from raum_lightning.cases.case import Case, other_case, read_remark, write_mask
from raum_lightning.cases.check import check_cases
from raum_lightning.cases.discovery import find_case, find_cases
from raum_lightning.cli import main
from raum_lightning.datasets import presets
from raum_lightning.errors import CaseError, ConfigError
from tests.helpers.cases import AFFINE, SHAPE, tiny_volumes, write_brats, write_msd

ALL = ("flair", "t1", "t1ce", "t2")


def problems(case: Case) -> list[str]:
    """The errors of a case that must have all modalities and a mask."""
    findings = check_cases([case], ALL, masked=True)
    errors = [finding for finding in findings if finding.severity == "error"]
    return [f"{Path(finding.file).name}: {finding.message}; {finding.advice}" for finding in errors]


@pytest.mark.parametrize(
    ("dataset", "name"),
    [
        ("brats2020", "BraTS20_Training_001"),
        ("brats2021", "BraTS2021_00000"),
        ("brats2023", "BraTS-GLI-00000-000"),
    ],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_every_data_set_is_found_and_read_alike(tmp_path: Path, dataset: str, name: str, ending: str) -> None:
    write_brats(tmp_path / "deeper", name, presets()[dataset], ending=ending)
    (case,) = find_cases(tmp_path)
    image, label, affine = case.read_labelled(ALL)
    images, labels = tiny_volumes()
    assert (case.id, case.dataset.name, problems(case)) == (name, dataset, [])
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
    assert case.dataset.indices == {0: 0, 3: 2, 1: 1, 2: 3}


def test_case_355_of_2020_has_its_mask(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "BraTS20_Training_355", presets()["brats2020"], ending=".nii")
    (folder / "BraTS20_Training_355_seg.nii").rename(folder / "W39_1998.09.19_Segm.nii")
    assert problems(find_case(tmp_path)) == []


def test_2024_must_be_declared(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "BraTS-GLI-02073-100", presets()["brats2023"])
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:9, 5:9, 5:9] = 4
    nib.save(nib.Nifti1Image(mask, AFFINE), folder / "BraTS-GLI-02073-100-seg.nii.gz")
    (problem,) = problems(find_case(tmp_path))
    assert "BraTS-GLI-02073-100-seg.nii.gz: label 4" in problem and "4 is RC in brats2024 and" in problem
    label, _ = find_case(tmp_path, "brats2024").read_label()
    assert set(np.unique(label)) == {0, 4}


def test_what_is_wrong_is_said_by_file(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "a", presets()["brats2020"])
    (folder / "a_t1.nii.gz").unlink()
    nib.save(nib.Nifti1Image(np.ones((4, 5, 6), np.int16), AFFINE), folder / "a_t2.nii.gz")
    moved = AFFINE.copy()
    moved[0, 3] += 2.5
    nib.save(nib.Nifti1Image(tiny_volumes()[0]["t1ce"], moved), folder / "a_t1ce.nii.gz")
    mask = np.zeros(SHAPE, np.uint8)
    mask[9] = 7
    nib.save(nib.Nifti1Image(mask, AFFINE), folder / "a_seg.nii.gz")
    said = problems(find_case(tmp_path))
    assert said[0].startswith("a: missing: t1 (found flair, t1ce, t2)")
    assert any("a_t1ce.nii.gz: affine differs from that of a_flair.nii.gz by up to 2.5 mm" in p for p in said)
    assert any("a_t2.nii.gz: shape (4, 5, 6) differs from (40, 36, 32) of the first file" in p for p in said)
    assert any("a_seg.nii.gz: label 7 is not one of brats2020" in p for p in said)
    assert len(said) == 4


def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "a", presets()["brats2020"])
    path = folder / "a_flair.nii.gz"
    content = path.read_bytes()
    for place in (30, len(content) // 3, len(content) // 2, len(content) - 6):
        path.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
        with pytest.raises(CaseError, match=r"a_flair\.nii\.gz: cannot be read as NIfTI"):
            find_case(tmp_path).read(ALL)


def test_nifti_2_is_read_too(tmp_path: Path) -> None:
    images, _ = tiny_volumes()
    for name in ("a_flair.nii", "a_t1.nii.gz"):
        nib.save(nib.Nifti2Image(images["flair"], AFFINE), tmp_path / name)
    image, affine = find_case(tmp_path).read(["flair", "t1"])
    np.testing.assert_array_equal(image, np.stack([images["flair"]] * 2))
    np.testing.assert_array_equal(affine, AFFINE)


def test_a_4d_file_is_decompressed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_msd(tmp_path, 1)
    case = find_cases(tmp_path)[0]
    filled: list[None] = []
    fill = nifti._fill
    monkeypatch.setattr(nifti, "_fill", lambda file, header, volume: filled.append(fill(file, header, volume)))
    case.read(("t2", "flair"))
    assert len(filled) == 4
    assert problems(case) == [] and len(filled) == 4 + 4 + 1


@pytest.mark.parametrize(
    ("field", "value"),
    [("dim", [3, 40, 36, 0, 1, 1, 1, 1]), ("dim", [3, 32767, 32767, 32767, 1, 1, 1, 1]), ("datatype", 999)],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_header_that_makes_no_sense_is_named(tmp_path: Path, field: str, value: object, ending: str) -> None:
    folder = write_brats(tmp_path, "a", presets()["brats2020"], ending=ending)
    path = folder / f"a_flair{ending}"
    packed = gzip if ending == ".nii.gz" else None
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    header[field] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))
    with pytest.raises(CaseError, match=r"a_flair\.nii"):
        find_case(tmp_path).read(ALL)
    assert read_remark(path) is None


def with_header(path: Path, **fields: float) -> None:
    content = bytearray(gzip.decompress(path.read_bytes()))
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)))


def test_voxels_without_a_size_are_named(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "a", presets()["brats2020"])
    with_header(folder / "a_t2.nii.gz", srow_x=0)
    (problem,) = problems(find_case(tmp_path))
    assert problem == (
        "a_t2.nii.gz: the sform gives voxels of 0 x 1 x 1 mm; expected 0.1 to 10 mm; fix the file's header"
    )


def test_a_rotation_that_is_none_is_left_out_of_what_is_written(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "a", presets()["brats2020"])
    with_header(folder / "a_flair.nii.gz", quatern_b=0.9, quatern_c=0.9, qform_code=1)
    case = find_case(tmp_path)
    assert problems(case) == []
    write_mask(tmp_path / "out.nii.gz", case.read_label()[0], case, "flair")
    written = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(written.affine, AFFINE)
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (0, 2)


def test_a_background_that_is_not_0_is_named(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "a", presets()["brats2020"])
    image = np.where(tiny_volumes()[0]["flair"] == 0, -1, 7).astype(np.int16)
    nib.save(nib.Nifti1Image(image, AFFINE), folder / "a_flair.nii.gz")
    with pytest.raises(CaseError, match=r"a_flair\.nii\.gz: background is -1, not 0"):
        find_case(tmp_path).read(ALL)
    image[0, 0, 0] = 5  # one voxel more or less changes nothing
    nib.save(nib.Nifti1Image(image, AFFINE), folder / "a_flair.nii.gz")
    assert "background is -1, not 0" in problems(find_case(tmp_path))[0]
    noise = np.random.default_rng(0).integers(1, 9, SHAPE)  # as around a head with skull: no error
    image = np.where(tiny_volumes()[0]["flair"] == 0, noise, tiny_volumes()[0]["flair"]).astype(np.int16)
    nib.save(nib.Nifti1Image(image, AFFINE), folder / "a_flair.nii.gz")
    assert problems(find_case(tmp_path)) == []


@pytest.mark.parametrize("damage", ["text", "truncated", "empty"])
def test_an_unreadable_file_is_named(tmp_path: Path, damage: str) -> None:
    folder = write_brats(tmp_path, "a", presets()["brats2020"])
    path = folder / "a_flair.nii.gz"
    content = path.read_bytes()
    path.write_bytes({"text": b"no nifti", "truncated": content[: len(content) // 2], "empty": b""}[damage])
    with pytest.raises(CaseError, match=r"a_flair\.nii\.gz: cannot be read as NIfTI"):
        find_case(tmp_path).read(ALL)
    assert len(problems(find_case(tmp_path))) == 1


def test_nan_is_counted(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "a", presets()["brats2020"])
    volume = np.ones(SHAPE, np.float32)
    volume[0, 0, :3] = np.nan
    nib.save(nib.Nifti1Image(volume, AFFINE), folder / "a_t2.nii.gz")
    with pytest.raises(CaseError, match="3 voxels are NaN or infinite"):
        find_case(tmp_path).read(["flair", "t2"])


def test_linked_folders_are_followed_once(tmp_path: Path) -> None:
    write_brats(tmp_path / "store", "a", presets()["brats2020"])
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
    with pytest.raises(ConfigError, match="data set 'brats2019' is unknown; give a YAML file"):
        find_cases(tmp_path, "brats2019")
    write_brats(tmp_path / "one", "a", presets()["brats2020"])
    write_brats(tmp_path / "two", "a", presets()["brats2020"])
    with pytest.raises(CaseError, match="case a is in both"):
        find_cases(tmp_path)


def test_two_files_for_one_modality_are_a_problem(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "a", presets()["brats2020"])
    (folder / "a_t1.nii").write_bytes(gzip.decompress((folder / "a_t1.nii.gz").read_bytes()))
    assert "two files for t1" in problems(find_case(tmp_path))[0]
    with pytest.raises(CaseError, match="case a: two files for t1"):
        find_case(tmp_path).read(ALL)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = write_brats(tmp_path, "a", presets()["brats2020"])
    scandir = os.scandir

    def refuse(path: str) -> object:  # root, as which tests may run, is refused nothing
        if Path(path) == closed:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(CaseError, match=r"/a: cannot be searched for cases \(Permission denied\)"):
        find_cases(tmp_path)


def test_names_may_be_in_capitals(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "a", presets()["brats2020"])
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.upper().replace("A_", "a_"))
    case = find_case(tmp_path)
    assert case.id == "a" and problems(case) == []


def test_an_id_says_more_than_the_ends_of_names(tmp_path: Path) -> None:
    name = "BraTS-GLI-00000-000"
    folder = write_brats(tmp_path, name, presets()["brats2023"])
    (folder / f"{name}-seg.nii.gz").rename(folder / f"{name}_seg.nii.gz")
    assert find_case(tmp_path).dataset.name == "brats2023" and problems(find_case(tmp_path)) == []


def test_a_missing_4d_file_is_said_once(tmp_path: Path) -> None:
    write_msd(tmp_path, 1)
    (tmp_path / "imagesTr/BRATS_001.nii.gz").unlink()
    assert len(problems(find_cases(tmp_path)[0])) == 1


def test_check_asks_for_masks_where_others_have_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, name in enumerate(("a", "b")):
        write_brats(tmp_path / "cases", name, presets()["brats2020"], seed=seed)
    (tmp_path / "cases/a/a_seg.nii.gz").unlink()
    assert main(["check", str(tmp_path / "cases")]) == 1
    (tmp_path / "cases/b/b_seg.nii.gz").unlink()
    assert main(["check", str(tmp_path / "cases")]) == 0
    write_msd(tmp_path / "msd", 1)
    assert main(["check", str(tmp_path / "msd")]) == 1  # the test image there is that of the training case
    assert "BRATS_900.nii.gz: has the same content as" in capsys.readouterr().out
    (tmp_path / "msd/imagesTs/BRATS_900.nii.gz").unlink()
    write_msd(tmp_path / "other", 2)
    (tmp_path / "other/imagesTs/BRATS_900.nii.gz").rename(tmp_path / "msd/imagesTs/BRATS_900.nii.gz")
    assert main(["check", str(tmp_path / "msd")]) == 0


def test_a_written_mask_lies_on_its_case(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "a", presets()["brats2020"])
    source = nib.load(folder / "a_flair.nii.gz")
    source.set_qform(AFFINE, 2)
    source.set_sform(AFFINE, 1)
    nib.save(source, folder / "a_flair.nii.gz")
    case = find_case(tmp_path)
    labels, _ = case.read_label()
    write_mask(tmp_path / "out" / "a.nii.gz", labels, case, "flair")
    written = nib.load(tmp_path / "out" / "a.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), presets()["brats2020"].decode(labels))
    np.testing.assert_array_equal(written.affine, source.affine)
    assert written.get_data_dtype() == np.uint8
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (2, 1)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.nii.gz"]


def test_a_mask_names_its_case_where_there_is_room(tmp_path: Path) -> None:
    folder = write_brats(tmp_path, "BraTS20_Training_001", presets()["brats2020"])
    case, path = find_case(folder), tmp_path / "m.nii.gz"
    labels, _ = case.read_label()
    write_mask(path, labels, case, "flair", "0123456789abcdef")
    assert read_remark(path) == ("brats2020", "0123456789abcdef")
    assert other_case(path, case.id) is None
    assert other_case(path, "BraTS20_Training_002") == (
        f"{path}: is a mask of case BraTS20_Training_001 by its header, and is taken for one of BraTS20_Training_002"
    )
    write_mask(path, labels, replace(case, id=case.id + "_flair"), "flair")  # as of single files
    assert other_case(path, case.id) is None
    write_mask(path, labels, replace(case, id="x" * 80), "flair", "kept")
    assert read_remark(path) == ("brats2020", "kept") and other_case(path, case.id) is None
    assert other_case(folder / f"{case.id}_seg.nii.gz", "another") is None
