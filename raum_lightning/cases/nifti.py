"""NIfTI files: read a volume and where it lies, check that two lie on one grid, write whole files."""

import gzip
import stat
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from raum_lightning.atomic import atomic
from raum_lightning.cases.header import LARGEST, Header, parse, transforms_of
from raum_lightning.errors import CaseError

ENDINGS = (".nii.gz", ".nii")
# deflate makes nothing smaller than to a 1032nd
MAX_RATIO = 1032
# voxels that are converted at a time
BLOCK = 2**20
GZIP = b"\x1f\x8b"
# how files begin that are found under the name of a NIfTI file
_BEGINNINGS = {
    b"version https://git-lfs": "is a pointer of Git LFS; fetch the file itself with `git lfs pull`",
    b"<!doctype": "is an HTML page; download the file again, as what is there is a login or error page",
    b"<html": "is an HTML page; download the file again, as what is there is a login or error page",
    b"<?xml": "is an XML document, such as the error message of a download; download it again",
    b"pk\x03\x04": "is a zip archive; unpack it",
    b"rar!": "is a RAR archive; unpack it",
    b"7z\xbc\xaf": "is a 7z archive; unpack it",
    b"bzh": "is compressed with bzip2; unpack it",
    b"\xfd7zxz": "is compressed with xz; unpack it",
    b"\x28\xb5\x2f\xfd": "is compressed with zstd; unpack it",
    b"nrrd": "is an NRRD file; convert it to NIfTI",
    b"\x89hdf": "is an HDF5 file; convert it to NIfTI",
    b"\x93numpy": "is a NumPy file; convert it to NIfTI",
    b"\x89png": "is a PNG picture; expected NIfTI",
}


_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(frozen=True)
class Volume:
    """What one file holds: an array X Y Z, float32, and its affine, 4 x 4, voxels to mm.

    `cleared` counts the voxels that were noise of the background and are now 0.
    """

    path: Path
    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    cleared: int = 0

    def check_grid(self, reference: "Volume") -> None:
        """Raise `CaseError` when the two do not lie voxel on voxel (affines may differ by rounding, 0.001 mm)."""
        if self.data.shape != reference.data.shape:
            shapes = f"{self.data.shape} differs from {reference.data.shape}"
            raise CaseError(f"{self.path}: shape {shapes} of {reference.path.name}")
        if not np.allclose(self.affine, reference.affine, rtol=0, atol=1e-3):
            distance = np.abs(self.affine - reference.affine).max()
            raise CaseError(
                f"{self.path}: affine differs from that of {reference.path.name} by up to {distance:.3g} mm"
            )


def read_header(path: Path) -> Header:
    """Return the header of a file; raise `CaseError` naming it where it is no NIfTI or claims what cannot be."""
    with _open(path) as file:
        return _parse(file, path)


def read_nifti(path: Path, channel: int | None = None) -> Volume:
    """Return one volume of a file; `channel` picks along the fourth axis, where there is one.

    Raise `CaseError` naming the file when it cannot be read, holds more or less than its header says, or does not say
    where it lies.
    """
    ((_, volume),) = read_channels(path, [channel])
    return volume


def read_channels(
    path: Path, channels: Collection[int | None], out: Mapping[int | None, NDArray[np.float32]] = MappingProxyType({})
) -> Iterator[tuple[int | None, Volume]]:
    """Yield volumes along the fourth axis of a file, which is unpacked once, in the order of the file; as `read_nifti`.

    None stands for the only volume of a file. Those that `out` names are written there, X Y Z in Fortran order. Whether
    the file is whole is known after the last.
    """
    with _open(path) as file:
        header = _parse(file, path)
        if None in channels and header.channels > 1:
            raise CaseError(f"{path}: has shape {header.shape}; expected voxels in three dimensions")
        wanted = {channel or 0: channel for channel in channels}
        if absent := [index for index in wanted if index >= header.channels]:
            raise CaseError(f"{path}: has {header.channels} volumes along its fourth axis, none at {absent[0]}")
        _check_size(path, header)
        file.seek(header.offset)
        for index in range(header.channels):
            volume = None
            if index in wanted:
                volume = out.get(wanted[index])
                volume = np.empty(header.shape[:3], np.float32, order="F") if volume is None else volume
                if volume.shape != header.shape[:3]:
                    shapes = f"{header.shape[:3]} differs from {volume.shape}"
                    raise CaseError(f"{path}: shape {shapes} of the first file; give images on one grid")
            _fill(file, header, volume)
            if volume is not None:
                yield wanted[index], Volume(path, volume, header.affine)
        if file.read(1):
            raise CaseError(
                f"{path}: holds more than the {header.nbytes} bytes of voxels that its header claims; copy it again"
            )


def _parse(file: BinaryIO, path: Path) -> Header:
    start = file.read(LARGEST)
    _refuse_others(path, start)
    return parse(start, path)


def _check_size(path: Path, header: Header) -> None:
    """Raise `CaseError` where a file cannot hold what its header claims; before memory is asked for."""
    size, claimed = path.stat().st_size, header.offset + header.nbytes
    if not _is_packed(path) and size != claimed:
        lacks = f"{claimed - size} are missing" if size < claimed else f"{size - claimed} are left over"
        raise CaseError(f"{path}: has {size} bytes where its header claims {claimed}; {lacks}; copy the file again")
    if claimed > size * MAX_RATIO:
        raise CaseError(
            f"{path}: claims {claimed / 1e6:.0f} MB of voxels, which {size / 1e3:.0f} kB cannot hold; copy it again"
        )


def _fill(file: BinaryIO, header: Header, volume: NDArray[np.float32] | None) -> None:
    """Read the next volume, block by block, so that no more than one is in memory in the file's own type."""
    flat = None if volume is None else volume.reshape(-1, order="F")
    assert flat is None or np.shares_memory(flat, volume)
    for start in range(0, header.voxels, BLOCK):
        count = min(BLOCK, header.voxels - start)
        content = file.read(count * header.dtype.itemsize)
        if len(content) < count * header.dtype.itemsize:
            raise EOFError
        if flat is not None:
            with np.errstate(all="ignore"):  # what becomes infinite is reported by the case
                values = np.frombuffer(content, header.dtype)
                flat[start : start + count] = apply_read_scaling(values, header.slope, header.intercept)


@contextmanager
def _open(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading, unpacked where its name ends in .gz; failures become `CaseError`."""
    try:
        if not stat.S_ISREG(mode := path.stat().st_mode):
            raise CaseError(f"{path}: is {_KINDS.get(stat.S_IFMT(mode), 'no file')}; expected a file in NIfTI format")
        with path.open("rb") as raw:
            start = raw.read(LARGEST)
            raw.seek(0)
            if not start:
                raise CaseError(f"{path}: cannot be read as NIfTI: it is empty (0 bytes); copy it again")
            _refuse_others(path, start)
            if _is_packed(path) != start.startswith(GZIP):
                state, ending = ("not ", ".nii") if _is_packed(path) else ("", ".nii.gz")
                raise CaseError(
                    f"{path}: cannot be read as NIfTI: it is {state}compressed with gzip; if it is a NIfTI file, let "
                    f"its name end in {ending}"
                )
            if not _is_packed(path):
                yield raw
                return
            with gzip.open(raw) as file:
                yield cast(BinaryIO, file)
    except FileNotFoundError:
        raise CaseError(f"{path}: no such file") from None
    except MemoryError:
        raise CaseError(f"{path}: its voxels do not fit into free memory") from None
    except EOFError:
        raise CaseError(f"{path}: cannot be read as NIfTI: it ends before its voxels do; copy it again") from None
    except (OSError, zlib.error) as error:
        raise CaseError(f"{path}: cannot be read as NIfTI ({error or type(error).__name__}); copy it again") from None


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _refuse_others(path: Path, start: bytes) -> None:
    """Raise `CaseError` that says what a file is that is known not to be NIfTI."""
    words = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    what = next((what for beginning, what in _BEGINNINGS.items() if words.startswith(beginning)), None)
    if start[128:132] == b"DICM":
        what = "is a DICOM file; convert the series to NIfTI, such as with dcm2niix"
    if start[257:262] == b"ustar":
        what = "is a tar archive; unpack it"
    if what:
        raise CaseError(f"{path}: cannot be read as NIfTI: it {what}")


def write_like(path: Path, array: NDArray[Any], reference: Path, description: str) -> None:
    """Write X Y Z, or X Y Z C, with the geometry of the file `reference`; whole or not at all."""
    source = read_header(reference).fields
    image = nib.Nifti1Image(array, source.get_best_affine())
    # both transforms of the header with their codes: readers differ in which of them they prefer
    sform, (qform, code) = transforms_of(source)
    image.set_sform(*sform)
    image.set_qform(qform, 0 if qform is None else code)
    image.header["xyzt_units"] = source["xyzt_units"]
    image.header["descrip"] = description
    if array.dtype.kind == "u":
        image.header.set_intent("label")  # which viewers colour without interpolating
    with atomic(path) as partial:
        nib.save(image, partial)


def stem(path: Path) -> str | None:
    """A NIfTI file's name without its ending; None for other files and for macOS's `._` companions."""
    for ending in ENDINGS:
        if path.name.lower().endswith(ending) and not path.name.startswith("."):
            return path.name[: -len(ending)]
    return None
