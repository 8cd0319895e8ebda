"""Augmentation of one patch with its mask, ours against TorchIO's transforms of the same names and ranges, in one run.

    python benchmarks/augment.py
    python benchmarks/augment.py --sizes 96 --repeats 5

One thread, as in a loader's worker. Run it on an otherwise idle machine. The two take turns; milliseconds are medians
for the single transforms, which are always applied, and means over the same seeds for the pipelines, whose parts have
their probabilities. The parameters of ours are sampled first and applied after, as in the patch stream, and both get
the patch alone.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchio as tio
from torch import Tensor

from raum_lightning.data import augment
from raum_lightning.data.augment import SampledTransform

AFFINE = {"scales": 0.15, "degrees": 15}
PAIRS: dict[str, tuple[tio.Transform, tio.Transform]] = {
    "flip": (
        augment.RandomSpatial(flip_probability=1, p_affine=0),
        tio.RandomFlip(axes=(0, 1, 2), flip_probability=1),
    ),
    "affine": (augment.RandomSpatial(flip_probability=0, **AFFINE), tio.RandomAffine(**AFFINE)),
    "elastic": (
        augment.RandomSpatial(flip_probability=0, p_affine=0, max_displacement=7.5),
        tio.RandomElasticDeformation(max_displacement=7.5),
    ),
    "flip, affine, elastic": (
        augment.RandomSpatial(flip_probability=1, max_displacement=7.5, **AFFINE),
        tio.Compose(
            [
                tio.RandomFlip(axes=(0, 1, 2), flip_probability=1),
                tio.RandomAffine(**AFFINE),
                tio.RandomElasticDeformation(max_displacement=7.5),
            ]
        ),
    ),
    "gamma": (augment.RandomGamma(), tio.RandomGamma()),
    "noise": (augment.RandomNoise(), tio.RandomNoise()),
    "blur": (augment.RandomBlur(std=(0, 2)), tio.RandomBlur(std=(0, 2))),
    "bias field": (augment.RandomBiasField(), tio.RandomBiasField()),
}
"""Each transform alone, certain to be applied."""

PIPELINE = (
    tio.Compose(
        [
            augment.RandomSpatial(flip_axes=(0, 1, 2), p_affine=0.5, **AFFINE),
            augment.RandomGamma(p=0.3),
            augment.RandomNoise(std=(0, 0.1), p=0.15),
            augment.RandomBlur(p=0.15),
        ]
    ),
    tio.Compose(
        [
            tio.RandomFlip(axes=(0, 1, 2)),
            tio.RandomAffine(p=0.5, **AFFINE),
            tio.RandomGamma(p=0.3),
            tio.RandomNoise(std=(0, 0.1), p=0.15),
            tio.RandomBlur(p=0.15),
        ]
    ),
)
"""As in training."""


def ours(transform: tio.Transform, image: Tensor, label: Tensor, seed: int) -> None:
    x, y, z = image.shape[1:]
    SampledTransform.sample(transform, channels=len(image), seed=seed).apply(image, label, (x, y, z))


def theirs(transform: tio.Transform, image: Tensor, label: Tensor, seed: int) -> None:
    torch.manual_seed(seed)
    transform(tio.Subject(image=tio.ScalarImage(tensor=image), label=tio.LabelMap(tensor=label)))


def take_turns(
    pair: tuple[tio.Transform, tio.Transform], image: Tensor, label: Tensor, repeats: int
) -> tuple[list[float], list[float]]:
    """Milliseconds of each run, ours and TorchIO's."""
    runs: tuple[Callable[..., None], ...] = (ours, theirs)
    times: tuple[list[float], list[float]] = ([], [])
    for seed in range(repeats + 1):
        for transform, run, measured in zip(pair, runs, times, strict=True):
            started = time.perf_counter()
            run(transform, image, label, seed)
            if seed:  # the first warms up
                measured.append(1e3 * (time.perf_counter() - started))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 128], help="edges of the cubic patch in voxels")
    parser.add_argument("--channels", type=int, default=3)
    parser.add_argument(
        "--repeats", type=int, default=7, help="of each transform; the pipelines run ten times as often"
    )
    options = parser.parse_args()

    torch.set_num_threads(1)
    for size in options.sizes:
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(options.channels, size, size, size, generator=generator)
        label = torch.randint(4, (1, size, size, size), generator=generator, dtype=torch.uint8)
        print(f"\n{size}^3, {options.channels} channels and mask, one thread; ms")
        print(f"{'':24}{'raum':>10}{'TorchIO':>10}{'ratio':>8}")
        rows = {
            name: [statistics.median(times) for times in take_turns(pair, image, label, options.repeats)]
            for name, pair in PAIRS.items()
        }
        pipeline = take_turns(PIPELINE, image, label, 10 * options.repeats)
        rows["the pipeline, mean"] = [statistics.mean(times) for times in pipeline]
        for name, (raum, torchio) in rows.items():
            print(f"{name:24}{raum:10.1f}{torchio:10.1f}{torchio / raum:8.1f}")


if __name__ == "__main__":
    main()
