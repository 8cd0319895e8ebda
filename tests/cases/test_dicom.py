"""Series of DICOM in, a DICOM segmentation out; the series are written here, with pydicom alone."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from raum_lightning.cases import registration
from raum_lightning.cases.dicom import choose, find_series, modality_of, write_nifti
from raum_lightning.cases.nifti import read_nifti
from raum_lightning.cli import main
from raum_lightning.datasets import load
from raum_lightning.errors import CaseError, ConfigError
from raum_lightning.inference import segmenter

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

# X along the rows, Y along the columns, Z slices: all different, as are the voxels in mm
SHAPE, SPACING = (20, 16, 12), (0.9, 1.1, 2.5)
# of a slice's rows and columns, patient coordinates (left, posterior, superior); oblique by 10 degrees
TILT = np.radians(10)
ROWS, COLUMNS = np.array([1.0, 0, 0]), np.array([0, np.cos(TILT), np.sin(TILT)])
ORIGIN = np.array([-9.0, -12.0, 30.0])
STUDY = "1.2.826.0.1.3680043.8.498.1"


def voxels(seed: int = 0) -> np.ndarray:
    """X Y Z, int16: a bright block off every centre, in noise, and 0 at the border."""
    image = np.random.default_rng(seed).integers(50, 100, SHAPE).astype(np.int16)
    image[3:9, 8:12, 2:5] += 400
    image[[0, -1]] = image[:, [0, -1]] = image[:, :, [0, -1]] = 0
    return image


def write_series(folder: Path, number: int, description: str, image: np.ndarray, *, agent: str = "") -> Path:
    """One file for each slice; names and instance numbers run against the order of their positions."""
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(ROWS, COLUMNS)
    for z in range(image.shape[2]):
        slice_ = pydicom.Dataset()
        slice_.SOPClassUID = pydicom.uid.MRImageStorage
        slice_.SOPInstanceUID = f"{STUDY}.{number}.{z + 1}"
        slice_.StudyInstanceUID, slice_.SeriesInstanceUID = STUDY, f"{STUDY}.{number}"
        slice_.FrameOfReferenceUID = f"{STUDY}.0"
        slice_.PositionReferenceIndicator = ""
        slice_.PatientName, slice_.PatientID, slice_.PatientBirthDate, slice_.PatientSex = "P^One", "P1", "", ""
        slice_.StudyDate, slice_.StudyTime, slice_.StudyID, slice_.AccessionNumber = "20200101", "120000", "1", ""
        slice_.ReferringPhysicianName = ""
        slice_.Modality, slice_.Manufacturer = "MR", "test"
        slice_.SeriesNumber, slice_.SeriesDescription, slice_.InstanceNumber = number, description, image.shape[2] - z
        slice_.ContrastBolusAgent = agent
        slice_.ImageType = ["ORIGINAL", "PRIMARY"]
        slice_.ImageOrientationPatient = [*ROWS, *COLUMNS.round(10)]
        slice_.ImagePositionPatient = (ORIGIN + z * SPACING[2] * normal).round(6).tolist()
        slice_.PixelSpacing, slice_.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
        slice_.Rows, slice_.Columns = image.shape[1], image.shape[0]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
        slice_.PixelData = image[:, :, z].T.tobytes()
        slice_.file_meta = pydicom.dataset.FileMetaDataset()
        slice_.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        slice_.save_as(folder / f"{number:02d}-{image.shape[2] - z:03d}", enforce_file_format=True)
    return folder


@pytest.fixture
def examination(tmp_path: Path) -> Path:
    """Three series, of which two lie in one folder, beside a file that is no DICOM."""
    folder = tmp_path / "study"
    write_series(folder / "a", 3, "AX T2 FLAIR", voxels(1))
    write_series(folder / "a", 7, "SAG MPRAGE", voxels(2), agent="GADOVIST")
    write_series(folder / "b", 5, "ep2d_diff ADC t2", voxels(3))
    (folder / "a/readme.txt").write_text("exported from the PACS")
    return folder


def test_series_are_told_apart(examination: Path) -> None:
    assert [(one.number, one.modality, len(one.files)) for one in find_series(examination)] == [
        ("3", "flair", 12),
        ("5", None, 12),
        ("7", "t1ce", 12),
    ]


def test_voxels_lie_where_the_headers_say(examination: Path, tmp_path: Path) -> None:
    series = choose(examination, {}, ("t1ce", "flair"))
    volume = read_nifti(write_nifti(series["t1ce"], tmp_path / "c.nii"))
    assert np.array_equal(volume.data, voxels(2))
    normal = np.cross(ROWS, COLUMNS)
    lps = np.array([10, 4, 3]) * SPACING @ np.stack([ROWS, COLUMNS, normal]) + ORIGIN
    ras = lps * (-1, -1, 1)
    assert np.allclose((volume.affine @ (10, 4, 3, 1))[:3], ras, atol=1e-3)


@pytest.mark.parametrize(
    ("description", "agent", "modality"),
    [
        ("t2_tirm_tra_dark-fluid", "", "flair"),
        ("3D FLAIR SAG", "", "flair"),
        ("AX T1 +C", "", "t1ce"),
        ("T1 POST GAD", "", "t1ce"),
        ("t1_mpr_sag", "Gadovist", "t1ce"),
        ("t1_mprage_sag", "", "t1"),
        ("AX T1 PRE CONTRAST", "", "t1"),
        ("T1 w/o contrast", "", "t1"),
        ("T1 C-", "", "t1"),
        ("t1_mpr_c_minus", "", "t1"),
        ("T1-C", "", "t1ce"),
        ("Ax T1 FLAIR", "", "t1"),
        ("Ax T1 FLAIR +C", "", "t1ce"),
        ("Ax T2 FLAIR", "", "flair"),
        ("T2 FLAIR reg T1", "", "flair"),
        ("T2W_TSE", "", "t2"),
        ("AX T2* GRE", "", None),
        ("t2_star_tra", "", None),
        ("ADC (10^-6 mm2/s) t2", "", None),
        ("3-plane localizer T1", "", None),
        ("", "", None),
    ],
)
def test_descriptions(description: str, agent: str, modality: str | None) -> None:
    assert modality_of(description, agent) == modality


def test_what_the_descriptions_leave_open_is_asked_for(examination: Path, tmp_path: Path) -> None:
    write_series(examination / "c", 12, "T1 POST", voxels(4))
    with pytest.raises(ConfigError, match=r"series 7, 12 are t1ce; say which by --t1ce NUMBER: .*5 'ep2d_diff ADC t2'"):
        choose(examination, {}, ("t1ce", "flair"))
    assert choose(examination, {"t1ce": "12"}, ("t1ce",))["t1ce"].description == "T1 POST"
    with pytest.raises(ConfigError, match="holds 0 series of number 8 for t1ce"):
        choose(examination, {"t1ce": "8"}, ("t1ce",))
    with pytest.raises(ConfigError, match="one series is taken for two modalities"):
        choose(examination, {"t1ce": "3"}, ("t1ce", "flair"))
    empty = tmp_path / "none"
    empty.mkdir()
    with pytest.raises(CaseError, match="holds no series of MR images"):
        find_series(empty)


def test_a_missing_slice_is_said(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", 3, "T1 POST", voxels())
    (folder / "03-005").unlink()
    with pytest.raises(CaseError, match=r"slices of series 3 .* are 2\.5 to 5 mm apart"):
        write_nifti(find_series(folder)[0], tmp_path / "c.nii")


def test_a_series_in_two_folders_is_said(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_series(tmp_path / "s" / name, 3, "T1 POST", voxels())
    with pytest.raises(CaseError, match=r"two: holds series 3 .*one does; name one of them"):
        find_series(tmp_path / "s")


@pytest.mark.slow
def test_a_mask_goes_out_as_a_dicom_segmentation(
    examination: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Series in, segmentation out, read back by pydicom from frames, positions and segments alone."""
    known = np.zeros(SHAPE, np.uint8)
    known[3:9, 8:12, 2:5] = 2
    known[4:6, 9:10, 3:4] = 3
    card = SimpleNamespace(
        trained_on=load("brats2020"), modalities=("flair", "t1ce"), translate=lambda labels, _: labels
    )
    network = SimpleNamespace(
        card=card,
        modalities_of=lambda case: case.files(card.modalities),
        segment=lambda case, progress: SimpleNamespace(labels=known, data_set=card.trained_on, volumes={"WT": 0.2}),
    )
    monkeypatch.setattr(segmenter, "load", lambda *_, **__: network)
    monkeypatch.setattr(registration, "register", lambda fixed, moving: np.eye(4))
    words = ["segment", "--model", "x.ckpt", "--raw", "--dicom", str(examination)]
    out = tmp_path / "mask.dcm"
    assert main([*words, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "t1ce: series 7 'SAG MPRAGE'" in said and "flair: series 3 'AX T2 FLAIR'" in said

    written = pydicom.dcmread(out)
    assert [one.SegmentLabel for one in written.SegmentSequence] == ["NCR", "ED", "ET"]
    assert written.SegmentSequence[1].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Edema"
    assert written.ReferencedSeriesSequence[0].SeriesInstanceUID == f"{STUDY}.7" and written.PatientID == "P1"
    normal, found = np.cross(ROWS, COLUMNS), np.zeros(SHAPE, np.uint8)
    for frame, about in zip(written.pixel_array, written.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array(about.PlanePositionSequence[0].ImagePositionPatient, float)
        z = round(float((place - ORIGIN) @ normal) / SPACING[2])
        number = about.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[:, :, z][frame.T > 0] = number
    assert np.array_equal(found, known)
    shared = written.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(size) for size in shared.PixelSpacing] == [SPACING[1], SPACING[0]]

    assert main([*words, "--out", str(out)]) == 0  # its own file may be written again
    assert main([*words, "--out", str(tmp_path / "mask.nii.gz")]) == 0
    mask = read_nifti(tmp_path / "mask.nii.gz")
    assert np.array_equal(mask.data, np.where(known == 3, 4, known))
    other = examination / "a/03-001"
    other.rename(tmp_path / "theirs.dcm")
    assert main([*words, "--out", str(tmp_path / "theirs.dcm")]) == 2


def test_a_folder_of_one_series_is_a_scan(
    examination: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registration, "register", lambda fixed, moving: np.eye(4))
    c = write_series(tmp_path / "c", 9, "unnamed", voxels(2))
    words = ["prepare-case", "--t1ce", str(c), "--out", str(tmp_path / "P-1")]
    assert main([*words, "--flair", str(examination)]) == 2
    assert "study: holds 3 series; give the folder as --dicom" in capsys.readouterr().err
    assert main([*words, "--flair", str(write_series(tmp_path / "f", 10, "also", voxels(1)))]) == 0
    assert np.array_equal(read_nifti(tmp_path / "P-1/P-1_t1ce.nii.gz").data, voxels(2))
    assert main(["prepare-case", "--flair", str(c), "--out", str(tmp_path / "P-2")]) == 2
    assert "give the T1ce, to which the others are registered" in capsys.readouterr().err


def test_slices_that_do_not_say_where_they_lie(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "s", 3, "T1 POST", voxels())
    for path in folder.iterdir():
        slice_ = pydicom.dcmread(path)
        del slice_.ImageOrientationPatient
        slice_.save_as(path)
    with pytest.raises(CaseError, match=r"does not say where its slice lies .* convert it with dcm2niix"):
        write_nifti(find_series(folder)[0], tmp_path / "c.nii")
