"""`raum prepare-case`: a moved scan is found again, and the case that is written is one for the other verbs."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import affine_transform
from scipy.spatial.transform import Rotation

from raum_lightning.cases import registration
from raum_lightning.cases.discovery import find_case
from raum_lightning.cases.nifti import read_nifti
from raum_lightning.cases.registration import register
from raum_lightning.cli import main
from raum_lightning.phantom import phantom_case

PHANTOM = phantom_case(seed=0, index=0, shape=(64, 64, 52))
# mm and degrees in world coordinates
SHIFT, TURNS = np.array([3.0, -2.0, 4.0]), (4.0, -3.0, 5.0)


def motion() -> np.ndarray:
    """Points of the T1ce to points of the moved scan: turned about the middle of the volume, and shifted."""
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_euler("xyz", TURNS, degrees=True).as_matrix()
    middle = (PHANTOM.affine @ (32, 32, 26, 1))[:3]
    matrix[:3, 3] = SHIFT + middle - matrix[:3, :3] @ middle
    return matrix


def written(path: Path, data: np.ndarray, affine: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(data.astype(np.float32), affine), path)
    return path


@pytest.fixture
def scans(tmp_path: Path) -> dict[str, Path]:
    """A T1ce, and a FLAIR of the head that has moved, on a grid of its own: 1.25 mm along Z, other origin and axes."""
    grid = np.array([[0, 1.0, 0, -66], [1.0, 0, 0, -4], [0, 0, 1.25, -5], [0, 0, 0, 1]])
    voxels = np.linalg.inv(PHANTOM.affine) @ np.linalg.inv(motion()) @ grid
    flair = affine_transform(
        PHANTOM.images["flair"].astype(np.float32), voxels[:3, :3], voxels[:3, 3], (72, 70, 50), order=1
    )
    return {
        "flair": written(tmp_path / "f.nii.gz", flair, grid),
        "t1ce": written(tmp_path / "c.nii.gz", PHANTOM.images["t1ce"], PHANTOM.affine),
    }


def given(scans: dict[str, Path]) -> list[str]:
    return [word for modality, path in scans.items() for word in (f"--{modality}", str(path))]


@pytest.mark.slow
def test_a_moved_scan_is_found_again_within_a_millimetre(scans: dict[str, Path]) -> None:
    found = register(read_nifti(scans["t1ce"]), read_nifti(scans["flair"]))
    brain = np.argwhere(PHANTOM.images["t1ce"] != 0)
    points = PHANTOM.affine @ np.c_[brain, np.ones(len(brain))].T
    errors = np.linalg.norm((found @ points - motion() @ points)[:3], axis=0)
    before = np.linalg.norm((points - motion() @ points)[:3], axis=0)
    assert before.max() > 5 and errors.max() < 1, errors.max()


def test_the_case_lies_on_the_grid_of_the_t1ce(
    scans: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = written(tmp_path / "m.nii.gz", PHANTOM.images["t1ce"] != 0, PHANTOM.affine)
    words = ["prepare-case", *given(scans), "--out", str(tmp_path / "P-1")]
    monkeypatch.setattr(registration, "register", lambda fixed, moving: motion())
    assert main([*words, "--brain-mask", str(mask)]) == 0
    degrees = np.degrees(Rotation.from_euler("xyz", TURNS, degrees=True).magnitude())
    centre = PHANTOM.affine @ np.append(np.argwhere(PHANTOM.images["t1ce"]).mean(axis=0), 1)
    shift = np.linalg.norm(motion() @ centre - centre)
    said = f"flair: moved by {shift:.1f} mm at the centre of the brain and turned by {degrees:.1f} degrees"
    assert said in capsys.readouterr().out
    image, affine = find_case(tmp_path / "P-1").read(["flair", "t1ce"])
    assert np.array_equal(affine, PHANTOM.affine)
    assert np.array_equal(image[1], PHANTOM.images["t1ce"])
    inside = PHANTOM.images["t1ce"] != 0
    assert not image[0][~inside].any()
    assert np.corrcoef(image[0][inside], PHANTOM.images["flair"][inside])[0, 1] > 0.9
    assert main(words) == 2
    assert "P-1: exists" in capsys.readouterr().err


def test_what_is_missing_is_said(scans: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["prepare-case", "--t1ce", str(scans["t1ce"]), "--out", str(tmp_path / "P-2")]
    assert main(words) == 2
    assert "give at least one of --flair, --t1 and --t2" in capsys.readouterr().err
    empty = written(tmp_path / "m.nii.gz", np.zeros((64, 64, 52)), PHANTOM.affine)
    assert main([*words, "--flair", str(scans["flair"]), "--brain-mask", str(empty)]) == 2
    assert "m.nii.gz: is 0 everywhere" in capsys.readouterr().err
    assert not (tmp_path / "P-2").exists()
