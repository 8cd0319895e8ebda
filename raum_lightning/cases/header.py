"""The header of a NIfTI file, judged before any voxel is read: every size that it claims is bounded here.

What a header claims is compared with what a scan of a head can be, so that a damaged or malicious one is refused by a
sentence instead of asking for memory. Lengths are in mm, whatever unit the header counts in.
"""

import logging
import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from raum_lightning.errors import CaseError

# the first four bytes are the header's own size
SIZES = {348: nib.Nifti1Header, 540: nib.Nifti2Header}
LARGEST = max(SIZES)
MAGICS = (b"n+1\0", b"n+2\0")
# in mm: from xyzt_units, where 0 (unknown) is taken for mm as every reader does
UNITS = {1: ("metres", 1000.0), 2: ("mm", 1.0), 3: ("micrometres", 0.001)}
VOXEL_MM = (0.1, 10.0)
# 512 x 512 x 512: of one volume, and of what it becomes when it is resampled to 1 mm; the same as in `geometry`, which
# imports torch
MAX_VOXELS = 2**27
# of all volumes in one file
MAX_BYTES = 2**31
# header and extensions; those of BIDS and AFNI take some kB
MAX_OFFSET = 2**24
# volume of the box that axes of length 1 span: 1 at right angles, 0 in one plane; scanners tilt by 30 degrees, 0.87
MIN_SPANNED = 0.7
# in mm: what rounding of a quaternion to float32 leaves, far below any voxel
TRANSFORM_TOLERANCE = 0.1

# nibabel tells it what it mends: what matters of it is refused here by name
_SILENT = logging.Logger("header")
_SILENT.addHandler(logging.NullHandler())
_NUMBERS = (2, 4, 8, 16, 64, 256, 512, 768, 1024, 1280)
_OTHERS = {128: "RGB colours", 2304: "RGBA colours"} | dict.fromkeys((32, 1792, 2048), "complex numbers")


@dataclass(frozen=True)
class Header:
    """What the header of a file says: voxels of `dtype` in `shape`, X Y Z or X Y Z C, from byte `offset`.

    `affine` is 4 x 4, voxels to mm, from the `source` (sform or qform) that counts; `disagreement` is how far the other
    transform puts a corner elsewhere, in mm. `fields` is the header as nibabel has it, in the file's own unit.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    slope: float | None
    intercept: float | None
    affine: NDArray[np.float64]
    source: str
    disagreement: float
    fields: Any

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along X, Y, Z; without torch, which `geometry` imports and takes 180 MB."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @property
    def channels(self) -> int:
        """Volumes along the fourth axis."""
        return self.shape[3] if len(self.shape) > 3 else 1

    @property
    def voxels(self) -> int:
        """Of one volume."""
        return math.prod(self.shape[:3])

    @property
    def nbytes(self) -> int:
        """Of all volumes, as they lie in the file."""
        return self.voxels * self.channels * self.dtype.itemsize

    @property
    def description(self) -> str:
        """The free text of the header."""
        text: bytes = self.fields["descrip"].item()
        return text.decode("ascii", "replace")


def parse(block: bytes, name: object) -> Header:
    """Return the header in the first bytes of a file; raise `CaseError`, which begins with `name`, for a bad one."""
    fields = _fields(block, name)
    try:
        with np.errstate(all="ignore"):
            shape = _shape(fields, name)
            dtype = _dtype(fields, name)
            _check_claim(shape, dtype.itemsize, name)
            offset = _offset(fields, name)
            slope, intercept = fields.get_slope_inter()
            affine, source, disagreement = _transform(fields, shape, name)
    except (HeaderDataError, OverflowError) as error:
        raise CaseError(f"{name}: has a damaged header ({error})") from None
    return Header(shape, dtype, offset, slope, intercept, affine, source, disagreement, fields)


def _fields(block: bytes, name: object) -> Any:
    kinds = [(order, SIZES.get(int.from_bytes(block[:4], order))) for order in ("little", "big")]
    order, kind = next(((order, kind) for order, kind in kinds if kind), ("", None))
    if kind is None or len(block) < kind.sizeof_hdr:
        raise CaseError(f"{name}: cannot be read as NIfTI (no header of NIfTI-1 or NIfTI-2 at its beginning)")
    try:
        fields = kind(block[: kind.sizeof_hdr], endianness="<" if order == "little" else ">", check=False)
        fields.check_fix(logger=_SILENT)
    except (HeaderDataError, WrapStructError, ValueError, OverflowError) as error:
        raise CaseError(f"{name}: cannot be read as NIfTI ({error})") from None
    magic = fields["magic"].item()
    if magic[:2] == b"ni":
        raise CaseError(f"{name}: is the header of a .hdr/.img pair; convert it to one .nii.gz")
    if (magic + b"\0")[:4] not in MAGICS:
        raise CaseError(f"{name}: cannot be read as NIfTI (its magic is {magic!r}, not one of {MAGICS})")
    return fields


def _shape(fields: Any, name: object) -> tuple[int, ...]:
    dimensions = [int(size) for size in fields["dim"]]
    shape = tuple(dimensions[1 : 1 + min(max(dimensions[0], 0), 7)])
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    said = f"{name}: has shape {_sizes(shape) or 'of no dimension'}"
    if len(shape) > 4:
        raise CaseError(f"{said}; expected voxels in three dimensions, or modalities along a fourth")
    if len(shape) < 3 or 1 in shape[:3]:
        raise CaseError(f"{said}, which is one slice; expected voxels in three dimensions")
    if any(size < 1 for size in shape):
        raise CaseError(f"{said}; its header is damaged, as every size must be positive")
    return shape


def _dtype(fields: Any, name: object) -> np.dtype[Any]:
    code = int(fields["datatype"])
    if code not in _NUMBERS:
        what = _OTHERS.get(code, f"numbers of type {code}")
        raise CaseError(f"{name}: holds {what}; expected one number of 8 to 64 bits for each voxel")
    dtype: np.dtype[Any] = fields.get_data_dtype().newbyteorder(fields.endianness)
    return dtype


def _check_claim(shape: tuple[int, ...], itemsize: int, name: object) -> None:
    nbytes = math.prod(shape) * itemsize
    if math.prod(shape[:3]) > MAX_VOXELS or nbytes > MAX_BYTES:
        raise CaseError(
            f"{name}: claims {_sizes(shape)} voxels, {nbytes / 1e9:.1f} GB; at most {MAX_VOXELS:,} voxels in a volume "
            f"and {MAX_BYTES / 1e9:.1f} GB in a file are read; crop or resample it"
        )


def _offset(fields: Any, name: object) -> int:
    offset, least = float(fields["vox_offset"]), fields.single_vox_offset
    if not (least <= offset <= MAX_OFFSET and offset.is_integer()):
        raise CaseError(
            f"{name}: vox_offset is {offset:g}; expected the byte at which voxels begin, from {least} to {MAX_OFFSET}: "
            "its header is damaged"
        )
    return int(offset)


def _transform(fields: Any, shape: tuple[int, ...], name: object) -> tuple[NDArray[np.float64], str, float]:
    """Return the affine in mm, which transform it is, and how far the other one puts a corner elsewhere."""
    (sform, _), (qform, qcode) = transforms_of(fields)
    if qcode and sform is None and qform is None:
        raise CaseError(
            f"{name}: the qform of its header is not a rotation, and there is no sform; fix the file's header"
        )
    if sform is None and qform is None:
        raise CaseError(
            f"{name}: its orientation is unknown (sform_code and qform_code are 0); set the affine, such as by copying "
            "the header of the file that it was made from"
        )
    unit, factor = UNITS.get(int(fields["xyzt_units"]) & 7, UNITS[2])
    scale = np.diag([factor, factor, factor, 1.0])
    transforms = [scale @ np.asarray(form, np.float64) for form in (sform, qform) if form is not None]
    source = "qform" if sform is None else "sform"
    _check_affine(transforms[0], shape, f"{name}: the {source}", unit)
    distance = 0.0
    if len(transforms) > 1:
        corners = np.array([*product(*((0, size - 1) for size in shape[:3]), (1,))])
        distance = float(np.abs((transforms[0] - transforms[1]) @ corners.T).max())
    return transforms[0], source, distance if distance > TRANSFORM_TOLERANCE else 0.0


def transforms_of(fields: Any) -> tuple[tuple[Any, int], tuple[Any, int]]:
    """Return sform and qform, 4 x 4 in the header's own unit, each with its code; None where there is none.

    None, too, for a qform that is not a rotation, which readers of the sform never see.
    """
    sform = fields.get_sform(coded=True)
    try:
        qform, code = fields.get_qform(coded=True)
    except (HeaderDataError, ValueError):
        return sform, (None, int(fields["qform_code"]))
    return sform, (qform if qform is not None and np.isfinite(qform).all() else None, code)


def _check_affine(affine: NDArray[np.float64], shape: tuple[int, ...], name: str, unit: str) -> None:
    """Raise `CaseError` unless voxels have a size that a scan of a head has, on axes that span space well."""
    counted = "" if unit == "mm" else f" (the header counts in {unit}: xyzt_units)"
    if not np.isfinite(affine).all():
        raise CaseError(f"{name} holds numbers that are not finite; fix the file's header")
    size = np.linalg.norm(affine[:3, :3], axis=0)
    said = f"{' x '.join(f'{length:.4g}' for length in size)} mm{counted}"
    smallest, largest = VOXEL_MM
    if not (size.min() >= smallest * (1 - 1e-6) and size.max() <= largest * (1 + 1e-6)):
        raise CaseError(f"{name} gives voxels of {said}; expected {smallest} to {largest:g} mm; fix the file's header")
    if abs(np.linalg.det(affine[:3, :3] / size)) < MIN_SPANNED:
        raise CaseError(
            f"{name} {np.round(affine[:3, :3], 3).tolist()} has axes that cannot be told apart; fix the file's header"
        )
    if math.prod(shape[:3]) * math.prod(size.tolist()) > MAX_VOXELS:
        raise CaseError(
            f"{name} gives {_sizes(shape[:3])} voxels of {said}, more than {MAX_VOXELS / 1e6:.0f} litres, which no "
            "head fills; fix the file's header"
        )


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
