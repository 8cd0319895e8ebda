import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from raum_lightning.atomic import partial_path
from raum_lightning.cases.discovery import find_cases
from raum_lightning.data.normalise import normalise
from raum_lightning.data.store import Prepared, prepare, prepared_folder
from raum_lightning.errors import CaseError, OutputError
from raum_lightning.labels import ED, ET, NCR
from tests.helpers.cases import AFFINE, SHAPE, tiny_volumes

MODALITIES = ("flair", "t1ce")
# from a voxel of the crop to that of the volume
CROP = [[1, 0, 0, 2], [0, 1, 0, 2], [0, 0, 1, 2], [0, 0, 0, 1]]


def opened(root: Path, folder: Path) -> list[Prepared]:
    return [Prepared.open(prepared_folder(case, folder, MODALITIES)) for case in find_cases(root)]


def test_what_is_kept_of_a_case(brats: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    prepare(find_cases(brats), folder, MODALITIES)
    for number, case in enumerate(opened(brats, folder), 1):
        images, labels = tiny_volumes(number)
        inside = tuple(slice(2, n - 2) for n in SHAPE)
        assert (case.start, case.shape, case.dataset) == ((2, 2, 2), SHAPE, "brats2020")
        np.testing.assert_array_equal(case.affine, AFFINE)
        np.testing.assert_array_equal(case.label, labels[inside])
        np.testing.assert_array_equal(case.uncrop(np.array(case.label)), labels)
        raw = images["t1ce"][inside].astype(np.float64)
        np.testing.assert_allclose(case.image[1], (raw - raw.mean()) / raw.std(), atol=4e-3)
        assert case.image.dtype == np.float16
        assert list(case.spacing) == [1, 1, 1]
        for index in (NCR, ED, ET):
            np.testing.assert_array_equal(case.tumour_voxels(index), np.flatnonzero(case.label == index))
        assert len(case.tumour_voxels()) == np.count_nonzero(labels)


def test_a_mask_beyond_the_brain_is_kept_whole(brats: Path, tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, 10, 10] = 2
    case = find_cases(brats)[0]
    assert case.label
    nib.save(nib.Nifti1Image(mask, AFFINE), case.label)
    prepare([case], tmp_path / "prepared", MODALITIES)
    prepared = Prepared.open(prepared_folder(case, tmp_path / "prepared", MODALITIES))
    assert prepared.tumour == {ED: 1}
    np.testing.assert_array_equal(prepared.uncrop(np.array(prepared.label)) == ED, mask == 2)


def test_prepared_once_and_again_when_source_or_settings_change(brats: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    cases = find_cases(brats)
    done: list[tuple[int, int]] = []
    for _ in range(2):
        prepare(cases, folder, MODALITIES, progress=lambda *step: done.append(step))
    assert done == [(n, 6) for n in range(1, 7)]

    path = cases[0].images["flair"]
    os.utime(path, ns=(1, 1))
    prepare(cases, folder, MODALITIES, progress=lambda *step: done.append(step))
    assert done[6:] == [(1, 1)]
    prepare(cases, folder, ("flair",), progress=lambda *step: done.append(step))
    assert len(done[7:]) == 6


def test_bad_cases_are_listed_and_good_ones_kept(brats: Path, tmp_path: Path) -> None:
    cases = find_cases(brats)
    cases[1].images["flair"].write_bytes(b"damaged")
    with pytest.raises(CaseError, match="1 of 6 cases cannot be used") as raised:
        prepare(cases, tmp_path / "prepared", MODALITIES)
    assert str(cases[1].images["flair"]) in str(raised.value)
    assert sorted(path.name[:-13] for path in (tmp_path / "prepared").iterdir()) == sorted(
        case.id for case in cases if case is not cases[1]
    )


def test_cases_that_lack_a_file_are_listed_beside_the_damaged(brats: Path, tmp_path: Path) -> None:
    cases = find_cases(brats)
    cases[1].images["flair"].unlink()
    cases[2].images["flair"].write_bytes(b"damaged")
    cases[4].images["flair"].unlink()
    with pytest.raises(CaseError, match=r"3 of 6 cases .* data\.exclude") as raised:
        prepare([*cases[:4], find_cases(brats)[4], cases[5]], tmp_path / "prepared", MODALITIES)
    listed = str(raised.value).splitlines()[1:]
    for line, said in zip(listed, ("no such file", "cannot be read", "flair is missing"), strict=True):
        assert said in line
    assert len(list((tmp_path / "prepared").iterdir())) == 3


@pytest.mark.parametrize("codes", ["RAS", "SAL", "PIR"])
def test_every_case_is_prepared_as_if_it_lay_lps(brats: Path, tmp_path: Path, codes: str) -> None:
    case, folder = find_cases(brats)[0], tmp_path / "prepared"
    images, labels = tiny_volumes(1)
    size = np.diag([1.0, 2.0, 3.0, 1.0])
    for path in (*case.images.values(), case.label):
        image = nib.Nifti1Image(np.asarray(nib.load(path).dataobj), AFFINE @ size)
        turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(codes))
        nib.save(image.as_reoriented(turn), path)
    prepare([case], folder, MODALITIES)
    prepared = Prepared.open(prepared_folder(case, folder, MODALITIES))
    inside = tuple(slice(2, n - 2) for n in SHAPE)
    np.testing.assert_array_equal(prepared.label, labels[inside])
    np.testing.assert_array_equal(prepared.image, normalise(np.stack([images[name] for name in MODALITIES]))[0])
    assert list(prepared.spacing) == [1, 2, 3]
    np.testing.assert_allclose(prepared.crop_affine, AFFINE @ size @ np.array(CROP))
    on_file = np.asarray(nib.load(case.label).dataobj)
    np.testing.assert_array_equal(prepared.uncrop(np.array(prepared.label)) != 0, on_file != 0)


def test_what_killed_preparations_left_is_removed(brats: Path, tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    name = partial_path(Path("case-0")).name
    left = tmp_path / "prepared" / name.replace(str(os.getpid()), str(dead.pid))
    left.mkdir(parents=True)
    (left / "image.npy").touch()
    prepare(find_cases(brats)[:1], tmp_path / "prepared", MODALITIES)
    assert not left.exists()


@pytest.mark.slow
def test_several_at_once_do_not_disturb_each_other(brats: Path, tmp_path: Path) -> None:
    cases, folder = find_cases(brats), tmp_path / "prepared"
    errors: list[BaseException] = []

    def work() -> None:
        try:
            prepare(cases, folder, MODALITIES, workers=2)
        except BaseException as error:  # reported by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(list(folder.iterdir())) == len(cases)
    assert [case.tumour for case in opened(brats, folder)]


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def zero(path: Path) -> None:
    """As where a file's last blocks never reached the disk."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def retype(path: Path) -> None:
    np.save(path, np.load(path).astype(np.float64))


@pytest.mark.parametrize("name", ["image.npy", "label.npy", "tumour.npy"])
@pytest.mark.parametrize("harm", [truncate, zero, retype, Path.unlink])
def test_a_damaged_array_is_named_and_prepared_again(
    brats: Path, tmp_path: Path, name: str, harm: Callable[[Path], None]
) -> None:
    cases, folder = find_cases(brats)[:2], tmp_path / "prepared"
    assert prepare(cases, folder, MODALITIES) == []
    target = prepared_folder(cases[1], folder, MODALITIES)
    expected = {path.name: path.read_bytes() for path in target.iterdir()}
    harm(target / name)
    (sentence,) = prepare(cases, folder, MODALITIES)
    assert sentence.startswith(f"case {cases[1].id} is prepared again: {target / name} ")
    assert {path.name: path.read_bytes() for path in target.iterdir()} == expected
    assert prepare(cases, folder, MODALITIES) == [] and len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"id": "a"'])
def test_a_damaged_description_is_prepared_again(brats: Path, tmp_path: Path, content: str) -> None:
    cases, folder = find_cases(brats)[:1], tmp_path / "prepared"
    prepare(cases, folder, MODALITIES)
    target = prepared_folder(cases[0], folder, MODALITIES)
    (target / "case.json").write_text(content)
    assert "case.json cannot be read" in prepare(cases, folder, MODALITIES)[0]
    assert Prepared.open(target).id == cases[0].id


def test_an_array_that_vanishes_later_is_named(brats: Path, tmp_path: Path) -> None:
    cases, folder = find_cases(brats)[:1], tmp_path / "prepared"
    prepare(cases, folder, MODALITIES)
    prepared = Prepared.open(prepared_folder(cases[0], folder, MODALITIES))
    (prepared.folder / "label.npy").unlink()
    with pytest.raises(CaseError, match=r"label\.npy: cannot be read .* `raum prepare` repairs it"):
        _ = prepared.label


def test_a_full_disk_is_named(brats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy says how many bytes were written, and neither file nor reason; what was prepared before stays."""
    cases = find_cases(brats)[:2]
    prepare(cases[:1], tmp_path / "prepared", ["flair"])

    def full(path: Path, array: np.ndarray) -> None:
        raise OSError("167958 requested and 14272 written")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(
        OutputError, match=r"_002-\w+: could not be written \(No space left on device; folder .*prepared"
    ):
        prepare(cases, tmp_path / "prepared", ["flair"])
    assert [folder.name[:20] for folder in (tmp_path / "prepared").iterdir()] == ["BraTS20_Training_001"]
