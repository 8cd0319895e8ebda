"""Damage single NIfTI files: each is read as a sound volume, or refused with a `CaseError`, in bounded memory.

python -m tests.fuzz.fuzz_headers --count 10000
"""

import argparse
import gzip
import math
import resource
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np

from raum_lightning.cases.case import cleaned
from raum_lightning.cases.header import MAX_VOXELS
from raum_lightning.cases.nifti import read_nifti
from raum_lightning.errors import CaseError

SHAPE = (7, 6, 5)
# values that damage most: of sizes, codes, offsets and lengths
NUMBERS = (0, 1, -1, 2, 3, 4, 7, 8, 64, 127, 128, 255, 256, 511, 1000, 32767, -32768, 65535)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-3, 1e3, 1e-30, 1e30, -1e30, math.nan, math.inf, -math.inf, 352.5, 1e9)


def sound(rng: np.random.Generator) -> bytes:
    """A small file of some type and byte order, of NIfTI-1 or NIfTI-2."""
    kind, header = ((nib.Nifti1Image, nib.Nifti1Header), (nib.Nifti2Image, nib.Nifti2Header))[rng.integers(0, 2)]
    dtype = np.dtype(str(rng.choice(["u1", "i2", "u2", "f4", "f8"])))
    data = rng.integers(0, 200, SHAPE).astype(dtype)
    data[0] = data[-1] = data[:, 0] = data[:, -1] = data[..., 0] = data[..., -1] = 0
    image = kind(data, np.diag([-1.0, -1, 1, 1]), header(endianness=str(rng.choice(["<", ">"]))))
    image.set_qform(image.affine, int(rng.integers(0, 2)))
    if rng.random() < 0.2:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", bytes(rng.bytes(40))))
    content: bytes = image.to_bytes()
    return content


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Change some bytes or fields of the header, or the length."""
    changed = bytearray(content)
    size = int.from_bytes(content[:4], "little")
    size = size if size in (348, 540) else int.from_bytes(content[:4], "big")
    way = rng.integers(0, 5)
    if way <= 1:
        for _ in range(int(rng.integers(1, 6))):
            place = int(rng.integers(0, size if way == 0 else len(changed)))
            changed[place] = int(rng.integers(0, 256))
    elif way == 2:
        kind = nib.Nifti1Header if size == 348 else nib.Nifti2Header
        header = kind(content[:size], check=False)
        for _ in range(int(rng.integers(1, 4))):
            name = str(rng.choice([name for name in header if header[name].dtype.kind != "S"]))
            field = header[name].copy().reshape(-1)
            choice = FLOATS if field.dtype.kind == "f" else NUMBERS
            with np.errstate(all="ignore"):
                limits = None if field.dtype.kind == "f" else np.iinfo(field.dtype)
                value = choice[int(rng.integers(0, len(choice)))]
                field[int(rng.integers(0, field.size))] = (
                    value if limits is None else np.clip(value, limits.min, limits.max)
                )
            header[name] = field.reshape(header[name].shape)
        changed[:size] = header.binaryblock
    elif way == 3:
        del changed[int(rng.integers(0, len(changed))) :]
    else:
        changed += rng.bytes(int(rng.integers(1, 400)))
    return bytes(changed)


def outcome(path: Path) -> str:
    """What becomes of a file: read, refused, or the traceback of a defect."""
    try:
        volume = cleaned(read_nifti(path))
    except CaseError as error:
        return "refused" if str(error).startswith(f"{path}: ") else f"the file is not named: {error}"
    except Exception:
        return traceback.format_exc()
    size = np.linalg.norm(volume.affine[:3, :3], axis=0)
    is_sound = (
        volume.data.dtype == np.float32
        and volume.data.ndim == 3
        and 1 < volume.data.size <= MAX_VOXELS
        and np.isfinite(volume.data).all()
        and np.isfinite(volume.affine).all()
        and size.min() > 0.09
        and size.max() < 10.1
    )
    return "read" if is_sound else f"read as {volume.data.shape} with voxels of {size}"


def fuzz(count: int, seed: int, folder: Path) -> Counter[str]:
    """Damage `count` files, one after the other; returns how many were read, refused, and what else happened."""
    counts: Counter[str] = Counter()
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        content = damage(sound(rng), rng)
        packed = rng.random() < 0.5
        path = folder / ("a.nii.gz" if packed else "a.nii")
        content = gzip.compress(content, 1) if packed else content
        if packed and rng.random() < 0.2:
            broken = bytearray(content)
            broken[int(rng.integers(0, len(broken)))] ^= 1 << int(rng.integers(0, 8))
            content = bytes(broken)
        path.write_bytes(content)
        found = outcome(path)
        counts[found if found in ("read", "refused") else f"number {number}: {found}"] += 1
    return counts


def main() -> int:
    """Print the counts; returns 1 where anything but a volume or a refusal came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        counts = fuzz(args.count, args.seed, Path(folder))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    others = [text for text in counts if text not in ("read", "refused")]
    print(*others, sep="\n", end="\n" if others else "")
    read, refused = counts["read"], counts["refused"]
    print(f"{args.count} files: {read} read, {refused} refused, {len(others)} otherwise; memory grew by {grown:.0f} MB")
    return int(bool(others))


if __name__ == "__main__":
    sys.exit(main())
