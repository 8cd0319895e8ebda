"""NIfTI files: read a volume and where it lies, check that two lie on one grid, write whole files."""

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from raum_lightning.atomic import atomic
from raum_lightning.errors import CaseError

ENDINGS = (".nii.gz", ".nii")
NIFTI2_SIZE = 540  # of its header, which begins with it
# what nibabel raises for a file that is no NIfTI, or whose header makes no sense
UNREADABLE = (
    *(ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, zlib.error),
    *(ValueError, TypeError, LookupError, OverflowError, MemoryError),
)


@dataclass(frozen=True)
class Volume:
    """What one file holds: an array X Y Z, float32, and its affine, 4 x 4, voxels to mm."""

    path: Path
    data: NDArray[np.float32]
    affine: NDArray[np.float64]

    def check_grid(self, reference: "Volume") -> None:
        """Raises `CaseError` when the two do not lie voxel on voxel (affines may differ by rounding, 0.001 mm)."""
        if self.data.shape != reference.data.shape:
            shapes = f"{self.data.shape} differs from {reference.data.shape}"
            raise CaseError(f"{self.path}: shape {shapes} of {reference.path.name}")
        if not np.allclose(self.affine, reference.affine, rtol=0, atol=1e-3):
            distance = np.abs(self.affine - reference.affine).max()
            raise CaseError(
                f"{self.path}: affine differs from that of {reference.path.name} by up to {distance:.3g} mm"
            )


def load_nifti(path: Path) -> Any:
    """The image in a file, as nibabel has it; a .nii.gz is read to its end, where its checksum is."""
    if path.suffix.lower() != ".gz":
        return nib.load(path)
    with gzip.open(path) as file:
        content = file.read()
    sizes = (int.from_bytes(content[:4], order) for order in ("little", "big"))
    return (nib.Nifti2Image if NIFTI2_SIZE in sizes else nib.Nifti1Image).from_bytes(content)


def loader_of_channels() -> Callable[[Path], Any]:
    """`load_nifti` for channels of one file after each other, which is decompressed once."""
    return lru_cache(maxsize=1)(load_nifti)


def read_nifti(path: Path, channel: int | None = None, *, load: Callable[[Path], Any] = load_nifti) -> Volume:
    """Reads one volume; `channel` picks along the fourth axis of a 4-D file.

    Raises `CaseError` naming the file when it cannot be read, has other dimensions, or does not say where it lies.
    """
    try:
        file = load(path)
        data = np.asarray(file.dataobj if channel is None else file.dataobj[..., channel], dtype=np.float32)
    except FileNotFoundError:
        raise CaseError(f"{path}: no such file") from None
    except UNREADABLE as error:
        raise CaseError(f"{path}: cannot be read as NIfTI ({error or type(error).__name__})") from None
    if data.ndim == 4 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim != 3 or not data.size:
        raise CaseError(f"{path}: has shape {data.shape}; expected voxels in three dimensions")
    affine = np.asarray(file.affine, dtype=np.float64)
    if not abs(np.linalg.det(affine[:3, :3])) > 0:
        raise CaseError(
            f"{path}: the affine {np.round(affine[:3], 3).tolist()} gives voxels no size; mend the file's header"
        )
    return Volume(path, data, affine)


def write_like(path: Path, array: NDArray[Any], reference: Path, description: str) -> None:
    """Writes X Y Z, or X Y Z C, with geometry and header of the file `reference`; whole or not at all."""
    source = nib.load(reference)
    header = source.header.copy()
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header["descrip"] = description
    image = nib.Nifti1Image(array, None, header)
    # both transforms of the header with their codes: readers differ in which of them they prefer
    image.set_sform(*source.get_sform(coded=True))
    try:
        image.set_qform(*source.get_qform(coded=True))
    except UNREADABLE:  # a quaternion longer than 1, which readers of the sform never see
        image.set_qform(None, 0)
    with atomic(path) as partial:
        nib.save(image, partial)


def stem(path: Path) -> str | None:
    """A NIfTI file's name without its ending; None for other files and for macOS's `._` companions."""
    for ending in ENDINGS:
        if path.name.lower().endswith(ending) and not path.name.startswith("."):
            return path.name[: -len(ending)]
    return None
