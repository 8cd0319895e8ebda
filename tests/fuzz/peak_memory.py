"""Print what a large case costs: peak memory of `raum segment` and `raum check` on 512 x 512 x 400 voxels, as a table.

python -m tests.fuzz.peak_memory          # or with the numbers of the rows; some minutes and 1.5 GB of temporary files

The network is one convolution, so that what is measured are the volumes and not the layers of a network.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from tests.helpers.handmade import MODALITIES, TRUST, fit_handmade

SHAPE, WINDOW = (512, 512, 400), [64, 64, 64]
# not ru_maxrss, which a process takes over from the one that starts it
MEASURED = (
    "import sys; from raum_lightning.cli import main; code = main(sys.argv[1:]); "
    "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')), code)"
)


def write_case(folder: Path, spacing: float) -> Path:
    """Write noise in an ellipsoid that touches all sides, half of the volume, int16 and uncompressed, and a mask."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    x, y, z = (np.linspace(-1, 1, size, dtype=np.float32) for size in SHAPE)
    inside = x[:, None, None] ** 2 + y[:, None] ** 2 + z**2 <= 1
    affine = np.diag([-spacing, -spacing, spacing, 1])
    for name in (*MODALITIES, "t1"):
        image = np.zeros(SHAPE, np.int16)
        image[inside] = rng.integers(100, 400, inside.sum(), dtype=np.int16)
        nib.save(nib.Nifti1Image(image, affine), folder / f"{folder.name}_{name}.nii")
    mask = np.zeros(SHAPE, np.uint8)
    mask[200:260, 200:260, 200:260] = 2
    nib.save(nib.Nifti1Image(mask, affine), folder / f"{folder.name}_seg.nii")
    return folder


def rows(work: Path, checkpoint: Path) -> dict[str, list[Any]]:
    """Return the words of each command by what the table calls it."""
    run = ["segment", "--checkpoint", checkpoint, "--trust", TRUST, "--overlap", "0"]
    network, half = (work / "cases" / name for name in ("BraTS20_Training_001", "BraTS20_Training_002"))
    same = [*run, "--case", network, "--out", work / "mask.nii.gz"]
    return {
        "segment, 1 flip": [*same, "--flips", "1"],
        "segment, 8 flips": [*same, "--flips", "8"],
        "segment, resampled from 0.9 mm, 8 flips": [*run, "--case", half, "--out", work / "m.nii.gz", "--flips", "8"],
        "check": ["check", work / "cases"],
    }


def main() -> int:
    """Print the table."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        checkpoint = fit_handmade(work)
        content = torch.load(checkpoint, weights_only=True)
        content["model_card"]["roi_size"] = WINDOW
        torch.save(content, checkpoint)
        write_case(work / "cases/BraTS20_Training_001", 1)
        write_case(work / "cases/BraTS20_Training_002", 0.9)
        print("| command | peak memory |\n|---|---|", flush=True)
        for number, (name, words) in enumerate(rows(work, checkpoint).items()):
            if sys.argv[1:] and str(number) not in sys.argv[1:]:
                continue
            run = [sys.executable, "-c", MEASURED, *map(str, words)]
            done = subprocess.run(run, capture_output=True, text=True, check=False)
            last = done.stdout.split()[-2:] if done.returncode == 0 else []
            size = f"{int(last[0]) * 1024 / 1e9:.2f} GB" if last else f"failed: {done.stderr[-300:]}"
            print(f"| `{name}` | {size}{'' if last[1:] in (['0'], ['1']) else ' ' + done.stderr[-300:]} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
