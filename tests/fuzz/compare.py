"""Give the same bad inputs to raum, to MONAI's loader and to nnU-Net, and print what each does as a table.

python -m tests.fuzz.compare raum
python -m tests.fuzz.compare monai
python -m tests.fuzz.compare nnunet      # where nnunetv2 is installed: its verify_dataset_integrity
"""

import argparse
import contextlib
import gzip
import io
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import nibabel as nib
import numpy as np

from raum_lightning.datasets import presets
from tests.helpers.cases import write_brats

ROLES = ("flair", "t1", "t1ce", "t2", "seg")
SECONDS = 60
Files = dict[str, Path]


def header(path: Path, **fields: object) -> Path:
    """Set fields of the header of a .nii.gz."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    changed = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        changed[name] = value
    content[:348] = changed.binaryblock
    path.write_bytes(gzip.compress(bytes(content)))
    return path


def voxels(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the voxels of a file."""
    image = nib.load(path)
    nib.save(nib.Nifti1Image(change(np.asarray(image.dataobj)), image.affine), path)


def write(path: Path, content: bytes) -> None:
    """Replace a file."""
    path.unlink()
    path.write_bytes(content)


def fifo(path: Path) -> None:
    """Replace a file by a pipe that nobody writes to."""
    path.unlink()
    os.mkfifo(path)


def bomb(path: Path) -> None:
    """Write 3 MB that unpack to 3 GB behind a header that claims a small volume."""
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(3 * 2**20), 9) * 1000)


def outside(mask: np.ndarray) -> np.ndarray:
    """Put the tumour into a corner of the volume, outside the brain."""
    moved = np.zeros_like(mask)
    moved[:2, :2, :2] = 4
    return moved


def hot(image: np.ndarray) -> np.ndarray:
    """Break one voxel."""
    image = image.astype(np.float32)
    image[20, 20, 20] = 1e9
    return image


def noise(image: np.ndarray) -> np.ndarray:
    """Leave what splines leave around a brain."""
    return np.where(image, image, np.random.default_rng(0).normal(0, 1e-4, image.shape)).astype(np.float32)


KINDS: dict[str, Callable[[Files], object]] = {
    "empty file": lambda f: write(f["t1ce"], b""),
    "HTML page": lambda f: write(f["t1ce"], b"<!DOCTYPE html><html>Sign in</html>"),
    "Git LFS pointer": lambda f: write(
        f["t1ce"], b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    ),
    "not compressed": lambda f: write(f["t1ce"], gzip.decompress(f["t1ce"].read_bytes())),
    "cut short": lambda f: write(f["t1ce"], f["t1ce"].read_bytes()[:-2000]),
    "bytes left over": lambda f: write(f["t1ce"], gzip.compress(gzip.decompress(f["t1ce"].read_bytes()) + bytes(9))),
    "RGB": lambda f: header(f["t1ce"], datatype=128, bitpix=24, dim=[3, 40, 36, 10, 1, 1, 1, 1]),
    "2-D": lambda f: header(f["t1ce"], dim=[2, 40, 1152, 1, 1, 1, 1, 1]),
    "claims 8 GB": lambda f: header(f["t1ce"], dim=[3, 2000, 2000, 1000, 1, 1, 1, 1]),
    "no orientation": lambda f: [header(f[role], sform_code=0, qform_code=0) for role in ROLES],
    "one file elsewhere": lambda f: header(f["t1ce"], srow_x=[-1, 0, 0, 25]),
    "voxels of 1000 mm": lambda f: [header(f[r], srow_x=[-1000, 0, 0, 0]) for r in ROLES],
    "axes alike": lambda f: [header(f[r], srow_x=[-1, -1, 0, 0], srow_y=[-1, -1, 0.1, 0]) for r in ROLES],
    "affine NaN": lambda f: [header(f[r], srow_x=[np.nan, 0, 0, 0]) for r in ROLES],
    "NaN voxels": lambda f: voxels(f["t1ce"], lambda a: np.where(a > 120, np.nan, a).astype(np.float32)),
    "all 0": lambda f: voxels(f["t1ce"], np.zeros_like),
    "background -1": lambda f: voxels(f["t1ce"], lambda a: np.where(a, a, -1).astype(np.int16)),
    "background noise": lambda f: voxels(f["t1ce"], noise),
    "constant in the brain": lambda f: voxels(f["t1ce"], lambda a: (300 * (a > 0)).astype(np.int16)),
    "one hot voxel": lambda f: voxels(f["t1ce"], hot),
    "T1ce is T1": lambda f: shutil.copy(f["t1"], f["t1ce"]),
    "label 7": lambda f: voxels(f["seg"], lambda a: np.where(a == 4, 7, a).astype(np.uint8)),
    "mask scaled": lambda f: header(f["seg"], scl_slope=1.004, scl_inter=0),
    "mask outside the brain": lambda f: voxels(f["seg"], outside),
    "mask empty": lambda f: voxels(f["seg"], np.zeros_like),
    "FIFO": lambda f: fifo(f["t1ce"]),
    "3 MB unpack to 3 GB": lambda f: bomb(f["t1ce"]),
}


def raum(root: Path, files: Files) -> str:
    """The findings of `raum check` about the bad case."""
    from raum_lightning.cases.check import check_cases
    from raum_lightning.cases.discovery import find_cases

    found = [f for f in check_cases(find_cases(root), ROLES[:4]) if f.case == "bad"]
    said = [f"{f.severity}: {Path(f.file).name}: {f.message}; {f.advice}" for f in found]
    return said[0] if said else "nothing"


def monai(root: Path, files: Files) -> str:
    """What MONAI's LoadImaged, the first transform of its pipelines, does with the bad case."""
    from monai.transforms import LoadImaged

    images = LoadImaged(keys=ROLES, ensure_channel_first=True)({role: str(path) for role, path in files.items()})
    shapes = {tuple(images[role].shape) for role in ROLES}
    return "loads it" if len(shapes) == 1 else f"loads shapes {shapes}"


def nnunet(root: Path, files: Files) -> str:
    """What nnU-Net's verify_dataset_integrity does with the same cases in its own layout and label values."""
    verify = import_module("nnunetv2.experiment_planning.verify_dataset_integrity").verify_dataset_integrity
    folder = root.with_name("Dataset001_X")
    for path in sorted(root.glob("*/*.nii.gz")):
        case, role = path.parent.name, path.name.removesuffix(".nii.gz").rpartition("_")[2]
        name = f"labelsTr/{case}.nii.gz" if role == "seg" else f"imagesTr/{case}_{ROLES.index(role):04d}.nii.gz"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        path.rename(folder / name)
    labels = {"background": 0, "NCR": 1, "ED": 2, "other": 3, "ET": 4}
    about = {"channel_names": {str(i): role for i, role in enumerate(ROLES[:4])}, "labels": labels}
    (folder / "dataset.json").write_text(json.dumps(about | {"numTraining": 3, "file_ending": ".nii.gz"}))
    with contextlib.redirect_stdout(io.StringIO()):
        verify(str(folder), 1)
    return "passes"  # what its processes print beside that stands above the row


def main() -> int:
    """Print a row for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tool", choices=("raum", "monai", "nnunet"))
    parser.add_argument("kinds", nargs="*", default=[*KINDS], help="by default all")
    args = parser.parse_args()
    tool = globals()[args.tool]
    for name in args.kinds:
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(temporary) / "cases"
            for seed, case in enumerate(("bad", "good1", "good2")):
                write_brats(root, case, presets()["brats2020"], seed=seed)
            files = {role: root / "bad" / f"bad_{role}.nii.gz" for role in ROLES}
            KINDS[name](files)
            print(f"| {name} | {_said(tool, root, files).replace(temporary, '')} |", flush=True)
    return 0


def _said(tool: Callable[[Path, Files], str], root: Path, files: Files) -> str:
    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        return tool(root, files)
    except TimeoutError:
        return f"no answer in {SECONDS} s"
    except BaseException as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:140]}"
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    sys.exit(main())
