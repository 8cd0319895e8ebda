"""Scores of whole cases: ours against the organisers' package, on pairs with 1 to 60 lesions.

    python benchmarks/metrics.py [--pairs 20] [--rules brats2026] [--workers 2]
    python benchmarks/metrics.py --validation [--pairs 3]

The pairs are synthetic, 240 x 240 x 155 voxels: nested blobs with uneven borders, as many as 60, and predictions whose
borders differ, which miss some and have others. Both sides read the same files. Ours computes under `brats2026` what
`brats-evaluate` computes, in `--workers` processes; theirs has one. Where their package is not installed (see
tests/metrics/organisers.txt) ours is timed alone. Under other rules the figures of `--metrics` are timed. MONAI does
less, Dice and HD95 of WT, TC and ET, beside which ours does the same in one process; files are read by both. The start
of our other processes is counted; this one scores meanwhile. Pairs are written one after the other, and each process
holds one at a time. Peak memory is that of all processes together, of ours only. Lines tell how far it is. Run it on an
otherwise idle machine.

`--validation` tells by how much lesion-wise scores and HD95 make the validation of a training longer than Dice alone,
with a small UNETR on windows of 64^3 voxels whose answers are the pairs' predictions, as a ratio only; each case waits
for its scores, which those of a training do not.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from raum_lightning.metrics.evaluation import evaluate

SHAPE = (240, 240, 155)
MOST = 60
NESTED = ((1, 2, 3), (1, 3), (3,))
THEIRS = ("dice", "nsd_05", "hd95", "lesion_dice", "lesion_dice_std", "lesion_nsd_10", "lesion_nsd_10_std")
THEIRS += ("lesion_hd95", "lesion_hd95_std", "lesion_tp", "lesion_fp", "lesion_fn", "lesion_f1")


def pair(seed: int, lesions: int) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and reference, label values of BraTS 2024."""
    rng = np.random.default_rng(seed)
    uneven = 9 * gaussian_filter(rng.standard_normal(SHAPE, dtype=np.float32), 4)
    x, y, z = np.indices(SHAPE, dtype=np.float32, sparse=True)
    reference, prediction = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    for number in range(lesions):
        centre = rng.uniform(45, [195, 195, 110])
        radius = rng.uniform(22, 38) if number == 0 else rng.uniform(2, 7)
        distance = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2)
        for mask, change, chance in ((reference, 0.0, 1.0), (prediction, 1.5, 0.85)):
            depth = radius - distance + min(radius / 6, 3) * uneven + change * rng.standard_normal()
            if rng.random() < chance:
                for value, share in ((2, 0.0), (3, 0.35), (1, 0.6)):
                    mask[depth > share * radius] = value
    return prediction, reference


def write(root: Path, pairs: int) -> None:
    for number in range(pairs):
        lesions = 1 + number * (MOST - 1) // max(pairs - 1, 1)
        print(f"writing pair {number + 1} of {pairs}, {lesions} lesions", flush=True)
        for side, labels in zip(("predictions", "references"), pair(number, lesions), strict=True):
            (root / side).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(labels, np.eye(4)), root / side / f"case-{number:05d}.nii.gz")


def ours(root: Path, rules: str, metrics: list[str], workers: int, classes: Sequence[str] = ("all",)) -> None:
    chosen: dict[str, Any] = {"metrics": metrics, "classes": classes, "rules": rules, "workers": workers}
    sides = {f"dataset_{side}": "brats2024" for side in ("predictions", "references")}
    evaluate(root / "predictions", root / "references", **chosen, **sides, progress=_tell)


def _tell(done: int, of: int) -> None:
    if done % 5 == 0 or done == of:
        print(f"scored {done} of {of} pairs", flush=True)


def theirs(root: Path) -> None:
    from brats_evaluation.evaluation import main as organisers

    paths = ["--ref_path", root / "references", "--pred_path", root / "predictions", "--config", "gli"]
    sys.argv = ["brats-evaluate", *map(str, paths), "--summary_json", str(root / "theirs.json")]
    json.dump = partial(json.dump, default=int)  # their counts are no longer Python's under NumPy 2.3 and later
    organisers()


def monai(root: Path) -> None:
    """Compute Dice and HD95 of WT, TC and ET."""
    import torch
    from monai.metrics import compute_dice, compute_hausdorff_distance

    for path in sorted((root / "predictions").iterdir()):
        files = (path, root / "references" / path.name)
        labels = [np.asarray(nib.load(file).dataobj) for file in files]
        guess, truth = (torch.from_numpy(np.stack([np.isin(one, part) for part in NESTED])[None]) for one in labels)
        compute_dice(guess, truth)
        compute_hausdorff_distance(guess, truth, include_background=True, percentile=95, spacing=(1.0, 1.0, 1.0))


def validation(pairs: int) -> None:
    """Print how much longer a validation is with all scores than with Dice alone, in alternating turns."""
    import torch

    from raum_lightning import UNETR, SegmentationModule

    class Shown(UNETR):
        """Takes the time of UNETR and answers with the classes that its image shows: an untrained one's are noise."""

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            """B C X Y Z to logits B K X Y Z."""
            tumour, enhancing, necrosis = (image > 1.5).float().unbind(1)
            shown = torch.stack([0.5 + 0 * tumour, 3 * necrosis, tumour, 2 * enhancing], dim=1)
            return shown + 0 * super().forward(image)

    torch.manual_seed(0)
    network = Shown(in_channels=3, img_size=64, embed_dim=192, depth=12, num_heads=3, mlp_dim=768, feature_size=8)
    seconds = {"dice": 0.0, "dice hd95 lesion_dice lesion_hd95": 0.0}
    for number in range(pairs):
        prediction, reference = (torch.from_numpy(mask)[None] for mask in pair(number, 1 + 10 * number))
        image = 1.0 + torch.stack([prediction > 0, prediction == 3, prediction == 1], dim=1)
        image[..., :20] = image[..., 130:] = image[:, :, :30] = image[:, :, 210:] = 0  # air
        batch = {"image": image, "label": reference, "case": [str(number)], "spacing": torch.ones(1, 3)}
        for names in seconds:
            module = SegmentationModule(network, metrics=names.split()).eval()
            start = time.perf_counter()
            with torch.inference_mode():
                module.validation_step(batch, 0)
            module.scoring.finish()
            seconds[names] += time.perf_counter() - start
        print(f"validated {number + 1} of {pairs} cases", flush=True)
    plain, more = seconds.values()
    print(f"{'with ' + [*seconds][1]:50} {100 * (more / plain - 1):+.1f} % of the time with Dice alone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--rules", default="brats2026")
    parser.add_argument("--metrics", nargs="+", default=list(THEIRS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--validation", action="store_true", help="measure the share of scores in a validation")
    args = parser.parse_args()
    if args.validation:
        validation(args.pairs)
        return
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root, args.pairs)
        start = time.perf_counter()
        ours(root, args.rules, args.metrics, args.workers)
        seconds = time.perf_counter() - start
        peak = sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        print(f"ours    {seconds / args.pairs:8.2f} s a pair, {args.workers} processes, {peak / 2**20:.1f} GiB at most")
        if args.rules == "brats2026" and find_spec("brats_evaluation"):
            start = time.perf_counter()
            theirs(root)
            other = time.perf_counter() - start
            print(f"theirs  {other / args.pairs:8.2f} s a pair: {other / seconds:.1f} times as long")
        if find_spec("monai"):
            start = time.perf_counter()
            ours(root, "brats2020", ["dice", "hd95"], 1, classes=[])
            seconds = time.perf_counter() - start
            start = time.perf_counter()
            monai(root)
            other = time.perf_counter() - start
            print(
                f"Dice and HD95: ours {seconds / args.pairs:.2f}, MONAI {other / args.pairs:.2f} s a pair, "
                f"{other / seconds:.1f} times as long"
            )


if __name__ == "__main__":
    main()
