"""Evaluation of one case, Dice and HD95 of three regions, against MONAI's metrics on the same pair.

    python benchmarks/metrics.py [--difference 0.3] [--rounds 5] [--threads 1]

The pair is synthetic, 240 x 240 x 155 voxels: an irregular nested tumour, a prediction that differs from it along its
borders, and a stray component on the other side of the brain, as networks produce them; `--difference` says how far
the borders are apart. Ours starts from class indices; MONAI is given the regions ready made, and that is not counted.
The two take turns; medians of the seconds are printed. Dice must agree; HD95 is defined differently and is printed for
both. Run it on an otherwise idle machine.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from monai.metrics import DiceMetric, compute_hausdorff_distance
from scipy.ndimage import gaussian_filter

from raum_lightning.labels import REGIONS, to_regions
from raum_lightning.metrics import score

SHAPE = (240, 240, 155)
SPACING = (1.0, 1.0, 1.0)


def tumour(seed: int, share: float) -> torch.Tensor:
    """Class indices X Y Z of nested blobs; `share` of their outline's unevenness comes from the seed."""
    x, y, z = np.indices(SHAPE, dtype=np.float32, sparse=True)
    depth = 1 - np.sqrt(((x - 90) / 42) ** 2 + ((y - 130) / 48) ** 2 + ((z - 80) / 34) ** 2)
    own, common = (
        gaussian_filter(np.random.default_rng(number).standard_normal(SHAPE, dtype=np.float32), 5)
        for number in (seed, 0)
    )
    depth += share * 12 * own + (1 - share) * 12 * common
    labels = np.select([depth > 0.6, depth > 0.35, depth > 0], [1, 3, 2]).astype(np.uint8)
    return torch.from_numpy(labels)


def ours(prediction: torch.Tensor, target: torch.Tensor) -> list[float]:
    scores = score(prediction, target, metrics=("dice", "hd95"), spacing=SPACING)
    return [scores[f"{metric}_{name.lower()}"] for metric in ("dice", "hd95") for name in REGIONS]


def monais(prediction: torch.Tensor, target: torch.Tensor) -> list[float]:
    dice = DiceMetric(include_background=True, reduction="none")(prediction, target)
    distance = compute_hausdorff_distance(
        prediction, target, include_background=True, percentile=95, spacing=list(SPACING)
    )
    return [*dice[0].tolist(), *distance[0].tolist()]


def timed(run: Callable[[], list[float]]) -> tuple[float, list[float]]:
    start = time.perf_counter()
    values = run()
    return time.perf_counter() - start, values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--difference", type=float, default=0.3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    target, prediction = tumour(1, 0.0), tumour(2, args.difference)
    prediction[190:196, 60:66, 100:105] = 3
    regions = [to_regions(labels[None]) for labels in (prediction, target)]
    sides = {"raum": lambda: ours(prediction, target), "MONAI": lambda: monais(*regions)}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    values: dict[str, list[float]] = {}
    for turn in range(args.rounds + 1):
        for name, run in sides.items():
            duration, values[name] = timed(run)
            if turn:  # the first round warms up
                seconds[name].append(duration)
    assert np.allclose(values["raum"][:3], values["MONAI"][:3], atol=1e-6)
    print(f"Dice + HD95, {', '.join(REGIONS)}, {SHAPE}, {args.threads} thread(s), median of {args.rounds}")
    for name in sides:
        scores = "  ".join(f"{value:.4f}" for value in values[name])
        print(f"{name:6} {median(seconds[name]):7.3f} s   Dice, HD95: {scores}")
    print(f"MONAI takes {median(seconds['MONAI']) / median(seconds['raum']):.1f} times as long")


if __name__ == "__main__":
    main()
