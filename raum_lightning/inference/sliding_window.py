"""Whole volumes through a network that sees one window at a time: pure functions on tensors.

Windows overlap and are blended with Gaussian weights, see `blending`; they lie where the brain is, see `windows`.

Precision is the caller's: under `torch.autocast` the network runs in bf16 and the sums stay in float32. For a progress
bar, wrap the network and ask `windows.count_windows` how many windows there will be.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Unpack

import torch

from raum_lightning.errors import CheckpointError, ConfigError
from raum_lightning.geometry import Box
from raum_lightning.inference.blending import Blending, Network, background_logits_, blend, slabs, zeros
from raum_lightning.inference.windows import Triple, Visit, plan
from raum_lightning.labels import NO_THRESHOLDS, REGIONS, Regions, Thresholds, from_probabilities

# voxels that are worked on at once where a whole volume would need as much memory again
PART = 1 << 22

FLIP_AXES: dict[int, tuple[int, ...]] = {1: (), 2: (2,), 4: (2, 3), 8: (2, 3, 4)}


class Windows(Blending, total=False):
    """The arguments of `sliding_window` that say how a volume is visited."""

    overlap: float


def sliding_window(
    image: torch.Tensor,
    network: Network,
    *,
    roi_size: Triple,
    overlap: float = 0.5,
    batch_size: int = 1,
    accumulate_on: torch.device | None = None,
) -> torch.Tensor:
    """Return logits B K X Y Z, float32, of images B C X Y Z whose voxels outside the brain are exactly 0.

    `network` maps windows N C x y z of `roi_size` voxels, `batch_size` of them at a time, to logits N K x y z. Adjacent
    windows share at least the fraction `overlap`, in [0, 1), of their length. The result lies on `accumulate_on`, by
    default the image's device. Voxels far from the brain, which no window visits, are background as in
    `background_logits_`; what the network says of voxels without signal inside the windows is kept.
    """
    blending = Blending(roi_size=roi_size, batch_size=batch_size, accumulate_on=accumulate_on)
    result: torch.Tensor | None = None
    for index, volume in enumerate(image):
        visit = plan(volume, roi_size=roi_size, overlap=overlap)
        logits = blend(visit.volume, network, visit.starts, **blending)
        if result is None:
            result = zeros((len(image), len(logits), *volume.shape[1:]), logits.dtype, logits.device)
        background_logits_(result[index], result.new_ones((), dtype=torch.bool))
        result[index, :, *visit.box] = logits[:, *visit.inside]
    assert result is not None, "an empty batch"
    return result


def probabilities_(logits: torch.Tensor, mode: str) -> torch.Tensor:
    """Turn logits ... K X Y Z into probabilities, in place.

    `mode` "labels" is a softmax over classes, "regions" a sigmoid for each region.
    """
    if mode == "regions":
        return logits.sigmoid_()
    for rows in parts(logits):
        rows.copy_(rows.softmax(dim=-4))
    return logits


def decide(
    values: torch.Tensor, mode: str, regions: Regions = REGIONS, thresholds: Thresholds = NO_THRESHOLDS
) -> torch.Tensor:
    """Return the class indices, B X Y Z uint8, of probabilities B K X Y Z as `labels.from_probabilities` does."""
    return torch.cat([from_probabilities(rows, mode, regions, thresholds) for rows in parts(values)], dim=-3)


def average(
    visit: Visit, networks: Sequence[Network], *, mode: str, flips: int = 1, **blending: Unpack[Blending]
) -> torch.Tensor:
    """Return probabilities K x y z in the box of the brain, of which what is not brain is certain background.

    They are the mean over all networks and over `flips` mirrored copies of each window (test-time augmentation): 1 as
    it is, 2 with X (left-right), 4 with X and Y, 8 with X, Y and Z flipped in all combinations. Only the sum is held
    whole, its terms slab by slab.
    """
    if mode not in ("labels", "regions"):
        raise ConfigError(f"mode={mode!r} is neither 'labels' (softmax) nor 'regions' (sigmoid)")
    if flips not in FLIP_AXES:
        raise ConfigError(f"flips={flips} is not a number of flipped copies that can be averaged: give 1, 2, 4 or 8")
    axes = FLIP_AXES[flips]
    subsets = [subset for size in range(len(axes) + 1) for subset in combinations(axes, size)]
    total: torch.Tensor | None = None
    inside, y, z = visit.inside
    for network, flipped in product(networks, subsets):
        for begin, logits in slabs(visit.volume, _mirrored(network, flipped), visit.starts, **blending):
            if total is None:
                size = [part.stop - part.start for part in visit.inside]
                total = zeros((len(logits), *size), logits.dtype, logits.device)
            first, last = max(begin, inside.start), min(begin + logits.shape[1], inside.stop)
            term = probabilities_(logits[:, first - begin : last - begin, y, z], mode)
            total[:, first - inside.start : last - inside.start].add_(term.to(total.device))
    assert total is not None, "an empty ensemble"
    outside = ~visit.brain[visit.inside].to(total.device)
    total.div_(len(networks) * flips).masked_fill_(outside, 0)
    if mode == "labels":
        total[0].masked_fill_(outside, 1)
    return total


def probabilities(
    image: torch.Tensor,
    network: Network | Sequence[Network],
    *,
    mode: str,
    flips: int = 1,
    **windows: Unpack[Windows],
) -> torch.Tensor:
    """Return the probabilities B K X Y Z of images B C X Y Z, of one network or the mean of several; see `average`.

    `windows` and the result's device are `sliding_window`'s.
    """
    result: torch.Tensor | None = None
    for index, (box, inside) in enumerate(_averages(image, network, mode, flips, windows)):
        if result is None:
            result = zeros((len(image), len(inside), *image.shape[2:]), inside.dtype, inside.device)
            if mode == "labels":
                result[:, 0] = 1
        result[index, :, *box] = inside
    assert result is not None, "an empty batch"
    return result


def segment(
    image: torch.Tensor,
    network: Network | Sequence[Network],
    *,
    mode: str,
    regions: Regions = REGIONS,
    flips: int = 1,
    **windows: Unpack[Windows],
) -> torch.Tensor:
    """Return class indices B X Y Z, uint8, on the image's device: what `decide` says of `probabilities`."""
    return segmentations(image, network, [NO_THRESHOLDS], mode=mode, regions=regions, flips=flips, **windows)[0]


def segmentations(
    image: torch.Tensor,
    network: Network | Sequence[Network],
    thresholds: Sequence[Thresholds],
    *,
    mode: str,
    regions: Regions = REGIONS,
    flips: int = 1,
    **windows: Unpack[Windows],
) -> list[torch.Tensor]:
    """Return what `segment` does for each of several thresholds, of probabilities that are computed once.

    Raises `CheckpointError` where these are NaN.
    """
    shape = (image.shape[0], *image.shape[2:])
    found = [torch.zeros(shape, dtype=torch.uint8, device=image.device) for _ in thresholds]
    for index, (box, inside) in enumerate(_averages(image, network, mode, flips, windows)):
        check_finite(inside)
        for labels, bounds in zip(found, thresholds, strict=True):
            labels[index, *box] = decide(inside[None], mode, regions, bounds)[0].to(image.device)
    return found


def check_finite(values: torch.Tensor) -> None:
    """Raise `CheckpointError` where a network's output holds NaN or infinite values."""
    # one sum sees NaN without another array of this size
    if not values.sum(dtype=torch.float32).isfinite():
        raise CheckpointError("the network returned NaN or infinite values")


def parts(values: torch.Tensor) -> Sequence[torch.Tensor]:
    """Return ... X Y Z in parts along X, of a few million voxels each: what is done to one needs no large copy."""
    step = max(1, PART // max(1, values.shape[-2] * values.shape[-1]))
    return torch.split(values, step, dim=-3)


def _averages(
    image: torch.Tensor, network: Network | Sequence[Network], mode: str, flips: int, windows: Windows
) -> Iterator[tuple[Box, torch.Tensor]]:
    """Yield, for each volume of B C X Y Z, the box of its brain and the probabilities in it."""
    networks = network if isinstance(network, Sequence) else [network]
    roi_size, overlap = windows["roi_size"], windows.get("overlap", 0.5)
    batch_size, device = windows.get("batch_size", 1), windows.get("accumulate_on")
    blending = Blending(roi_size=roi_size, batch_size=batch_size, accumulate_on=device)
    for volume in image:
        visit = plan(volume, roi_size=roi_size, overlap=overlap)
        yield visit.box, average(visit, networks, mode=mode, flips=flips, **blending)


def _mirrored(network: Network, axes: tuple[int, ...]) -> Network:
    """Return the network as it sees windows N C x y z flipped along `axes`, its output flipped back."""
    return lambda windows: network(windows.flip(axes)).flip(axes)
