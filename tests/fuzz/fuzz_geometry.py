"""Damage the headers of whole cases: each case is segmented and prepared, or refused in one sentence by itself.

python -m tests.fuzz.fuzz_geometry --count 3000           # an hour; --first 1200 continues one that was ended
"""

import argparse
import resource
import shutil
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np

from raum_lightning import load
from raum_lightning.cases.discovery import find_cases
from raum_lightning.cases.header import VOXEL_MM
from raum_lightning.data.store import Prepared, prepare, prepared_folder
from raum_lightning.datasets import presets
from raum_lightning.errors import UserError
from raum_lightning.inference.segmenter import Segmenter
from tests.fuzz.fuzz_headers import FLOATS, NUMBERS
from tests.helpers.cases import write_brats
from tests.helpers.handmade import fit_handmade

MODALITIES = ("flair", "t1ce", "t2")
# in mm; voxels of 10 mm are allowed, but make 50 million of the smallest case
SIZES = (VOXEL_MM[0], 0.001, 0.05, 0.3, 0.7, 1.3, 3, 11, 1000)


def damage(folder: Path, rng: np.random.Generator) -> None:
    """Change the geometry in all headers of a case alike, or in one of them."""
    paths = sorted(folder.glob("*.nii"))
    way, seed = int(rng.integers(0, 6)), int(rng.integers(0, 2**31))
    chosen = paths if rng.random() < 0.8 else [paths[int(rng.integers(0, len(paths)))]]
    for path in chosen:
        content = bytearray(path.read_bytes())
        header = nib.Nifti1Header(bytes(content[:348]), check=False)
        _change(header, way, np.random.default_rng(seed))
        content[:348] = header.binaryblock
        path.write_bytes(bytes(content))


def _change(header: nib.Nifti1Header, way: int, rng: np.random.Generator) -> None:
    rows = np.array([header[f"srow_{axis}"] for axis in "xyz"], np.float64)
    if way == 0:  # another size of voxels
        rows[:, :3] *= rng.choice(SIZES, 3) if rng.random() < 0.5 else rng.choice(SIZES)
    elif way == 1:  # a rotation, a shear, or a projection
        rows[:, :3] = rows[:, :3] @ rng.normal(0, rng.choice([0.01, 0.3, 1]), (3, 3)) + rows[:, :3] * (
            rng.random() < 0.7
        )
    elif way == 2:  # one number
        rows[int(rng.integers(0, 3)), int(rng.integers(0, 4))] = rng.choice(FLOATS)
    elif way == 3:
        header["xyzt_units"] = rng.integers(0, 256)
    elif way == 4:
        header["sform_code"], header["qform_code"] = rng.integers(0, 3, 2)
        for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x"):
            header[name] = rng.choice([*FLOATS, 0.1, 0.5, 0.7])
        header["pixdim"] = rng.choice([*SIZES, *FLOATS], 8)
    else:
        header["dim"] = np.where(rng.random(8) < 0.3, rng.choice(NUMBERS[:-1], 8), header["dim"])
    for axis, row in zip("xyz", rows, strict=True):
        with np.errstate(all="ignore"):
            header[f"srow_{axis}"] = row


def fuzz(numbers: Iterable[int], seed: int, root: Path) -> Iterator[tuple[str, str]]:
    """Damage the cases of these numbers; yield what became of each in segment and in prepare."""
    segmenter = load(fit_handmade(root), trust=["tests.helpers.handmade"])
    sound = write_brats(root / "sound", "good", presets()["brats2020"], ending=".nii")
    source = write_brats(root / "source", "bad", presets()["brats2020"], seed=1, ending=".nii")
    for number in numbers:
        rng = np.random.default_rng([seed, number])
        cases, folder = root / "cases", root / "prepared"
        shutil.copytree(sound, cases / "good")
        damage(Path(shutil.copytree(source, cases / "bad")), rng)
        yield (
            _outcome(number, partial(_segment, cases / "bad", segmenter)),
            _outcome(number, partial(_prepare, cases, folder)),
        )
        shutil.rmtree(cases)
        shutil.rmtree(folder, ignore_errors=True)


def _segment(folder: Path, segmenter: Segmenter) -> None:
    segmenter.segment(folder).save(folder / "mask.nii.gz")


def _prepare(root: Path, folder: Path) -> None:
    cases = find_cases(root)
    try:
        prepare(cases, folder, MODALITIES, workers=1)
    finally:
        (good,) = [case for case in cases if case.id == "good"]
        assert Prepared.open(prepared_folder(good, folder, MODALITIES)).image.size


def _outcome(number: int, attempt: Callable[[], None]) -> str:
    try:
        attempt()
    except UserError:
        return "refused"
    except Exception:
        return f"number {number}: {traceback.format_exc()}"
    return "done"


def main() -> int:
    """Print the counts after each hundred cases; returns 1 where anything but a mask or a refusal came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000, help="the number of the last case and one")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    counts: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    numbers = range(args.first, args.count)
    with tempfile.TemporaryDirectory() as folder:
        for number, outcomes in zip(numbers, fuzz(numbers, args.seed, Path(folder)), strict=True):
            for count, outcome in zip(counts, outcomes, strict=True):
                known = outcome in ("done", "refused")
                count[outcome if known else "otherwise"] += 1
                if not known:
                    print(outcome)
            if number % 100 == 99 or number + 1 == args.count:
                said = [
                    f"{name} {count['done']} done, {count['refused']} refused, {count['otherwise']} otherwise"
                    for name, count in zip(("segment", "prepare"), counts, strict=True)
                ]
                print(f"cases {args.first} to {number}: {'; '.join(said)}", flush=True)
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    return int(any(count["otherwise"] for count in counts))


if __name__ == "__main__":
    sys.exit(main())
