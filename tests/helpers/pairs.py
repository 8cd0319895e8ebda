"""Pairs of masks of class indices, built by hand or at random, and the scores of one region."""

import math

import numpy as np
import torch
from numpy.typing import NDArray

from raum_lightning.labels import ED, ET, NCR, RC
from raum_lightning.metrics import DEFAULT, Rules, score

Labels = NDArray[np.uint8]
ISOTROPIC = (1.0, 1.0, 1.0)


def scores_of(
    prediction: NDArray[np.generic],
    target: NDArray[np.generic],
    *metrics: str,
    spacing: tuple[float, float, float] = ISOTROPIC,
    rules: Rules = DEFAULT,
) -> dict[str, float]:
    """The scores of ET, by metric, of two masks of booleans."""
    pair = (torch.from_numpy(np.where(mask, ET, 0).astype(np.uint8)) for mask in (prediction, target))
    found = score(*pair, metrics=metrics, spacing=spacing, rules=rules, regions={"ET": (ET,)})
    return {metric: found[f"{metric}_et"] for metric in metrics}


def blob(shape: tuple[int, int, int], centre: tuple[float, float, float], radius: float) -> NDArray[np.bool_]:
    """A ball."""
    grid = np.indices(shape).reshape(3, -1).T
    inside = np.linalg.norm(grid - np.array(centre), axis=1) <= radius
    return inside.reshape(shape)


def tumour(rng: np.random.Generator, shape: tuple[int, int, int], lesions: int, cavity: bool) -> Labels:
    """Balls of nested classes at random places, some with a cavity beside, specks of single classes among them."""
    labels = np.zeros(shape, np.uint8)
    for number in range(lesions):
        centre = tuple(float(rng.uniform(4, size - 4)) for size in shape)
        radius = float(rng.uniform(1, 7))
        for label, part in ((ED, 1.0), (ET, 0.75), (NCR, 0.45)):
            labels[blob(shape, centre, radius * part)] = label
        if cavity and number % 2 == 0:
            beside = (centre[0] + radius, centre[1], centre[2])
            labels[blob(shape, beside, float(rng.uniform(1, 4)))] = RC
    for _ in range(lesions):
        corner = [int(rng.integers(0, size - 4)) for size in shape]
        size = rng.integers(1, 4, 3)
        where = tuple(slice(start, start + int(extent)) for start, extent in zip(corner, size, strict=True))
        labels[where] = rng.choice([ED, ET, NCR, RC] if cavity else [ED, ET, NCR])
    return labels


def predicted(rng: np.random.Generator, target: Labels) -> Labels:
    """What a network might make of a mask: moved, thinned out, with specks and without some of its components."""
    moved = np.roll(target, tuple(rng.integers(-2, 3, 3)), (0, 1, 2))
    moved[rng.random(target.shape) < 0.02] = 0
    moved[: int(rng.integers(0, target.shape[0] // 3))] = 0
    noise = rng.random(target.shape) < 2e-4
    moved[noise] = rng.choice([ED, ET, NCR, RC], int(noise.sum()))
    return moved


def same(one: float, other: float) -> bool:
    """Equal to three decimals; NaN equals NaN and infinity itself."""
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return one == other or abs(one - other) < 5e-4
