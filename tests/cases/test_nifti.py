"""Bounds: a header is compared with what a scan can be and with the bytes of its file before voxels are read."""

import gzip
import os
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from raum_lightning.cases.header import MAX_VOXELS
from raum_lightning.cases.nifti import read_channels, read_header, read_nifti
from raum_lightning.errors import CaseError

LPS = np.diag([-1.0, -1, 1, 1])
DATA = np.random.default_rng(0).integers(-500, 500, (9, 8, 7)).astype(np.int16)


def save(path: Path, data: np.ndarray = DATA, affine: np.ndarray = LPS, **fields: object) -> Path:
    """A file whose header then gets `fields`."""
    nib.save(nib.Nifti1Image(data, affine), path)
    packed = path.suffix == ".gz"
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))
    return path


def said(path: Path) -> str:
    with pytest.raises(CaseError) as caught:
        read_nifti(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u2", "i4", "u4", "i8", "f4", ">f4", "f8"])
@pytest.mark.parametrize("scaling", [(1, 0), (0.5, 3), (2e-3, -1)])
def test_values_are_those_that_nibabel_reads(
    tmp_path: Path, ending: str, dtype: str, scaling: tuple[float, float]
) -> None:
    data = (DATA % 100).astype(dtype)
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(dtype)
    path = tmp_path / f"a{ending}"
    nib.save(nib.Nifti1Image(data, LPS, header), path)
    save_scaling(path, *scaling)
    volume = read_nifti(path)
    np.testing.assert_array_equal(volume.data, np.asarray(nib.load(path).dataobj, dtype=np.float32))
    np.testing.assert_array_equal(volume.affine, LPS)
    assert volume.data.flags.f_contiguous


def save_scaling(path: Path, slope: float, intercept: float) -> None:
    packed = path.suffix == ".gz"
    content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]))
    header["scl_slope"], header["scl_inter"] = slope, intercept
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)) if packed else bytes(content))


def test_channels_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(0, 99, (5, 4, 3, 4)).astype(np.int16)
    path = save(tmp_path / "a.nii.gz", data)
    out = np.zeros((5, 4, 3), np.float32, order="F")
    read = list(read_channels(path, [3, 1], {3: out}))
    assert [channel for channel, _ in read] == [1, 3]
    np.testing.assert_array_equal(read[0][1].data, data[..., 1])
    np.testing.assert_array_equal(out, data[..., 3])
    with pytest.raises(CaseError, match="has 4 volumes along its fourth axis, none at 4"):
        read_nifti(path, 4)
    assert "has shape (5, 4, 3, 4); expected voxels in three dimensions" in said(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_more_or_fewer_bytes_than_claimed(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    for dim, words in (
        ([3, 9, 8, 6, 1, 1, 1, 1], {".nii": "144 are left over", ".nii.gz": "holds more than the 864 bytes"}),
        ([3, 9, 8, 8, 1, 1, 1, 1], {".nii": "144 are missing", ".nii.gz": "it ends before its voxels do"}),
    ):
        assert words[ending] in said(save(path, dim=dim))


BOMBS = """
import re, sys
from pathlib import Path
from raum_lightning.cases.nifti import read_nifti
from raum_lightning.errors import CaseError
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
for path in sys.argv[1:]:
    try:
        read_nifti(Path(path))
        print("read")
    except CaseError as error:
        print(error)
print(peak() - before)
"""


@pytest.mark.slow
def test_a_small_file_that_unpacks_to_gigabytes_is_refused_without_the_memory(tmp_path: Path) -> None:
    """3 MB that unpack to 3 GB behind an honest header, the same behind a small one, and 50 kB that claim 8 GB."""
    sizes = {"honest": (1200, 1200, 1042), "small": (64, 64, 64), "claimed": (2000, 2000, 1000)}
    zeros = gzip.compress(bytes(3 * 2**20), 9) * 1000  # members of a gzip file unpack one after the other
    paths = []
    for name, shape in sizes.items():
        header = nib.Nifti1Header()
        header.set_data_shape(shape)
        header.set_data_dtype(np.int16)
        header.set_sform(LPS, 1)
        header["vox_offset"] = 352
        path = tmp_path / f"{name}.nii.gz"
        start = header.binaryblock + bytes(4)
        path.write_bytes(
            gzip.compress(start + os.urandom(50_000)) if name == "claimed" else gzip.compress(start) + zeros
        )
        paths.append(str(path))
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", BOMBS, *paths], capture_output=True, text=True, check=True)
    honest, small, claimed, grown = done.stdout.splitlines()
    assert "claims 1200 x 1200 x 1042 voxels, 3.0 GB; at most 134,217,728 voxels" in honest
    assert "holds more than the 524288 bytes of voxels that its header claims" in small
    assert "claims 2000 x 2000 x 1000 voxels, 8.0 GB" in claimed
    assert int(grown) < 50_000  # kB
    assert time.perf_counter() - start < 60


def test_a_claim_that_deflate_cannot_reach_is_refused_before_unpacking(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.zeros((4, 4, 4), np.int16), dim=[3, 500, 500, 500, 1, 1, 1, 1])
    assert "claims 250 MB of voxels, which 0 kB cannot hold" in said(path)


@pytest.mark.parametrize("kind", ["folder", "FIFO", "socket", "device"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = Path(os.path.relpath(tmp_path)) / "a.nii"
    if kind == "folder":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(str(path))
            assert said(path) == "is a socket; expected a file in NIfTI format"
        return
    else:
        path.symlink_to("/dev/zero")
    assert said(path) == f"is a {kind}; expected a file in NIfTI format"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty (0 bytes); copy it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "it is a pointer of Git LFS; fetch the file"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", "it is an HTML page; download the file again"),
        (b"BZh91AY&SY", "it is compressed with bzip2; unpack it"),
        (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file; convert it to NIfTI"),
        (bytes(128) + b"DICM", "it is a DICOM file; convert the series to NIfTI, such as with dcm2niix"),
        (b"no nifti", "no header of NIfTI-1 or NIfTI-2 at its beginning"),
    ],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_other_files_are_called_what_they_are(tmp_path: Path, ending: str, content: bytes, words: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    if ending == ".nii.gz" and content == b"no nifti":
        words = "it is not compressed with gzip; if it is a NIfTI file, let its name end in .nii"
    assert f"cannot be read as NIfTI: {words}" in said(path).replace("NIfTI (no", "NIfTI: no")
    if content and ending == ".nii.gz":
        path.write_bytes(gzip.compress(content))  # packed as it is
        said(path)


def test_archives_and_wrong_endings(tmp_path: Path) -> None:
    good = save(tmp_path / "good.nii.gz")
    path = tmp_path / "a.nii"
    path.write_bytes(good.read_bytes())
    assert "it is compressed with gzip; if it is a NIfTI file, let its name end in .nii.gz" in said(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(good)
    assert "it is a zip archive; unpack it" in said(path)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"datatype": 128, "bitpix": 24}, "holds RGB colours; expected one number of 8 to 64 bits for each voxel"),
        ({"datatype": 32, "bitpix": 64}, "holds complex numbers; expected one number"),
        ({"dim": [2, 9, 56, 1, 1, 1, 1, 1]}, "has shape 9 x 56, which is one slice"),
        ({"dim": [3, 9, 56, 1, 1, 1, 1, 1]}, "has shape 9 x 56 x 1, which is one slice"),
        ({"dim": [5, 3, 3, 7, 2, 4, 1, 1]}, "has shape 3 x 3 x 7 x 2 x 4; expected voxels in three dimensions"),
        ({"dim": [3, 9, -8, 7, 1, 1, 1, 1]}, "has shape 9 x -8 x 7; its header is damaged"),
        ({"vox_offset": np.nan}, "vox_offset is nan; expected the byte at which voxels begin, from 352 to 16777216"),
        ({"vox_offset": np.inf}, "vox_offset is inf; expected the byte at which voxels begin"),
        ({"vox_offset": 352.5}, "vox_offset is 352.5; expected the byte"),
        ({"magic": b"ni1"}, "is the header of a .hdr/.img pair; convert it to one .nii.gz"),
        ({"sform_code": 0}, "its orientation is unknown (sform_code and qform_code are 0); set the affine"),
        ({"sform_code": 0, "qform_code": 1, "quatern_b": 2}, "the qform of its header is not a rotation"),
        ({"srow_x": [np.nan, 0, 0, 0]}, "the sform holds numbers that are not finite; fix the file's header"),
        ({"srow_x": [-0.001, 0, 0, 0]}, "the sform gives voxels of 0.001 x 1 x 1 mm; expected 0.1 to 10 mm"),
        ({"srow_x": [-1000, 0, 0, 0]}, "the sform gives voxels of 1000 x 1 x 1 mm; expected 0.1 to 10 mm"),
        ({"xyzt_units": 1}, "gives voxels of 1000 x 1000 x 1000 mm (the header counts in metres: xyzt_units)"),
        ({"xyzt_units": 3}, "gives voxels of 0.001 x 0.001 x 0.001 mm (the header counts in micrometres: xyzt_units)"),
        ({"srow_x": [-1, -1, 0, 0], "srow_y": [-1, -1, 0.1, 0]}, "has axes that cannot be told apart"),
        (  # no two of them close to each other, but all in one plane: a voxel of 1 mm would be the mean of thousands
            {"srow_x": [1, -0.5, -0.5, 0], "srow_y": [0, 0.87, -0.87, 0], "srow_z": [0, 0, 0.01, 0]},
            "has axes that cannot be told apart",
        ),
        ({"scl_slope": 1, "scl_inter": np.inf}, "has a damaged header (Valid slope but invalid intercept inf)"),
    ],
)
def test_headers_that_make_no_sense(tmp_path: Path, fields: dict[str, Any], words: str) -> None:
    assert words in said(save(tmp_path / "a.nii", **fields))


def test_no_head_fills_so_many_litres(tmp_path: Path) -> None:
    path = save(tmp_path / "a.nii.gz", np.zeros((240, 240, 155), np.uint8), np.diag([-10.0, -10, 10, 1]))
    assert "240 x 240 x 155 voxels of 10 x 10 x 10 mm, more than 134 litres, which no head fills" in said(path)


@pytest.mark.parametrize(("unit", "factor"), [(1, 1e-3), (2, 1), (3, 1e3), (0, 1), (10, 1)])
def test_units_are_applied(tmp_path: Path, unit: int, factor: float) -> None:
    """Metres and micrometres describe the same voxels; 10 is mm and seconds."""
    affine = LPS * factor
    affine[:3, 3] = np.array([12, -5, 3]) * factor
    path = save(tmp_path / "a.nii", affine=affine, xyzt_units=unit)
    np.testing.assert_allclose(
        read_nifti(path).affine, [[-1, 0, 0, 12], [0, -1, 0, -5], [0, 0, 1, 3], [0, 0, 0, 1]], rtol=1e-6, atol=1e-9
    )


def test_sform_and_qform_that_disagree(tmp_path: Path) -> None:
    image = nib.Nifti1Image(DATA, LPS)
    moved = LPS.copy()
    moved[:3, 3] = [0, 2.5, 0]
    image.set_sform(LPS, 1)
    image.set_qform(moved, 1)
    nib.save(image, tmp_path / "a.nii")
    header = read_header(tmp_path / "a.nii")
    assert (header.source, header.disagreement) == ("sform", 2.5)
    np.testing.assert_array_equal(header.affine, LPS)


def test_extensions_are_passed_over(tmp_path: Path) -> None:
    image = nib.Nifti1Image(DATA, LPS)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nib.save(image, tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(read_nifti(tmp_path / "a.nii.gz").data, DATA)


def test_the_bound_is_above_what_scanners_give() -> None:
    assert MAX_VOXELS >= 512 * 512 * 400
