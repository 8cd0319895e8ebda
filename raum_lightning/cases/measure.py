"""What `raum check` measures of a case: a few numbers of each file, by which the rules judge it."""

import hashlib
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

from raum_lightning.cases.case import Case, edges, sample_of
from raum_lightning.cases.nifti import Volume, read_header, read_nifti
from raum_lightning.datasets import BACKGROUND, IGNORED
from raum_lightning.errors import CaseError, LabelError

# voxels that are converted at a time
BLOCK = 2**20
# voxels from which correlations, percentiles and the tumour's contrast are taken
SAMPLE = 2**20


@dataclass(frozen=True)
class Image:
    """What was measured of one modality. The brain is where it is not 0, shares are from 0 to 1.

    Args:
        file: Where it lies.
        modality: Such as flair.
        spacing: Voxel size in mm from left to right, from back to front and upwards, however the axes of the file run.
        source: The transform of the header that counts, sform or qform.
        disagreement: How far the other one puts a corner elsewhere, in mm.
        digest: Of its voxels.
        litres: Volume of the brain.
        mean: Of the brain.
        std: Of the brain.
        typical_std: Of the brain without the brightest thousandth.
        maximum: The brightest voxel.
        distinct: Different values in a sample of the brain, counted up to 1000.
        negative: Share of the brain below 0.
        edge: Share of the voxels along the edges of the volume that are not 0.
        overlap: Of its brain with that of the case's first image, intersection over union.
        noise: Share of the voxels that were noise around 0 and are read as 0.
        tumour: Mean of the tumour, in standard deviations above the mean of the brain; None without one.
    """

    file: str
    modality: str
    spacing: list[float]
    source: str
    disagreement: float
    digest: str
    litres: float
    mean: float
    std: float
    typical_std: float
    maximum: float
    distinct: int
    negative: float
    edge: float
    overlap: float
    noise: float
    tumour: float | None


@dataclass(frozen=True)
class Mask:
    """What was measured of a mask: voxels of the tumour, their shares outside the brain and of it, voxels by class."""

    file: str
    digest: str
    voxels: int
    outside: float
    covered: float
    classes: dict[str, int]


@dataclass
class Facts:
    """What was measured of a case: its images and its mask, and what could not be read, as file and sentence.

    `alike` lists pairs of modalities with the correlation of their intensities within the brain.
    """

    images: list[Image] = field(default_factory=list)
    mask: Mask | None = None
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    alike: list[tuple[str, str, float]] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)

    @classmethod
    def of_plain(cls, content: dict[str, Any]) -> "Facts":
        """Return what `plain` gave, after a round trip through JSON."""
        mask = content["mask"] and Mask(**content["mask"])
        images = [Image(**image) for image in content["images"]]
        return cls(
            images, mask, [(a, b) for a, b in content["unreadable"]], [(a, b, c) for a, b, c in content["alike"]]
        )


def measure(case: Case) -> Facts:
    """Measure every file of a case, of several volumes one at a time in memory; what cannot be read is noted."""
    facts = Facts()
    reference = _grid(case)
    labels: NDArray[np.uint8] | None = None
    if case.label is not None:
        try:
            labels = _labels(case, case.label, reference)
        except CaseError as error:
            facts.unreadable.append((str(case.label), str(error)))
    brains: list[NDArray[np.uint8]] = []
    samples: dict[str, NDArray[np.float32]] = {}
    buffer = np.empty(reference.data.shape, np.float32, order="F") if reference else None
    for path in dict.fromkeys(case.images.values()):
        names = [modality for modality in case.images if case.images[modality] == path]
        try:
            for modality, volume in case.volumes(names, {} if buffer is None else dict.fromkeys(names, buffer)):
                if reference:
                    volume.check_grid(reference)
                samples[modality] = sample_of(volume.data, SAMPLE).copy()
                facts.images.append(_image(modality, volume, samples[modality], labels, brains))
        except CaseError as error:
            facts.unreadable.append((str(path), str(error)))
    if case.label is not None and labels is not None and brains:
        facts.mask = _mask(case, case.label, labels, brains)
    facts.alike = [(a, b, _correlation(samples[a], samples[b])) for a, b in combinations(samples, 2)]
    return facts


def _grid(case: Case) -> Volume | None:
    """Return where the first image that has a header lies, as a volume of zeros that takes no memory."""
    for path in case.images.values():
        try:
            header = read_header(path)
        except CaseError:
            continue
        return Volume(path, np.broadcast_to(np.float32(0), header.shape[:3]), header.affine)
    return None


def _labels(case: Case, path: Path, reference: Volume | None) -> NDArray[np.uint8]:
    """Return the mask as class indices, X Y Z; block by block, and only what is not 0, which takes little memory."""
    mask = read_nifti(path)
    if reference:
        mask.check_grid(reference)
    flat = mask.data.reshape(-1, order="F")
    blocks = [slice(start, start + BLOCK) for start in range(0, flat.size, BLOCK)]
    found = (flat[block] for block in blocks)
    values = np.unique(np.concatenate([np.unique(block[block != 0]) for block in found]))
    try:
        classes = case.dataset.encode(values)
    except LabelError:
        case.encode(mask)  # which raises too, with the number of voxels
        raise
    labels = np.zeros(flat.size, np.uint8)
    for block in blocks:
        tumour = flat[block] != 0
        labels[block][tumour] = classes[np.searchsorted(values, flat[block][tumour])]
    return labels.reshape(mask.data.shape, order="F")


def _image(
    modality: str,
    volume: Volume,
    sample: NDArray[np.float32],
    labels: NDArray[np.uint8] | None,
    brains: list[NDArray[np.uint8]],
) -> Image:
    """Measure one modality; its brain is appended to `brains`, a bit for each voxel."""
    header = read_header(volume.path)
    flat = volume.data.reshape(-1, order="F")
    brains.append(_packed(flat))
    count, mean, std = _moments(flat)
    signal = sample[sample != 0]
    typical = signal[signal <= np.percentile(signal, 99.9)] if signal.size else signal
    spacing = [header.spacing[axis] for axis in np.argsort(io_orientation(volume.affine)[:, 0])]
    union = _bits(brains[0] | brains[-1])
    tumour = None
    if labels is not None and std > 0 and (inside := _is_tumour(sample_of(labels, SAMPLE))).any():
        tumour = float((sample[inside].mean(dtype=np.float64) - mean) / std)
    return Image(
        file=str(volume.path),
        modality=modality,
        spacing=spacing,
        source=header.source,
        disagreement=header.disagreement,
        digest=hashlib.blake2b(flat.data, digest_size=16).hexdigest(),
        litres=count * float(np.prod(spacing)) / 1e6,
        mean=mean,
        std=std,
        typical_std=float(typical.std(dtype=np.float64)) if typical.size else 0.0,
        maximum=float(flat.max()),
        distinct=min(1000, np.unique(signal).size),
        negative=float(np.mean(signal < 0)) if signal.size else 0.0,
        edge=float(np.mean(edges(volume.data) != 0)),
        overlap=_bits(brains[0] & brains[-1]) / max(union, 1),
        noise=volume.cleared / flat.size,
        tumour=tumour,
    )


def _moments(flat: NDArray[np.float32]) -> tuple[int, float, float]:
    """Return how many values are not 0, their mean and their standard deviation."""
    count, total, squares = 0, 0.0, 0.0
    shift = float(flat[np.argmax(flat != 0)])  # so that the squares of values far from 0 do not cancel
    for start in range(0, flat.size, BLOCK):
        block = flat[start : start + BLOCK]
        values = block[block != 0].astype(np.float64) - shift
        count, total, squares = count + values.size, total + values.sum(), squares + np.dot(values, values)
    mean = total / max(count, 1)
    return count, mean + shift, float(np.sqrt(max(squares / max(count, 1) - mean**2, 0)))


def _mask(case: Case, path: Path, labels: NDArray[np.uint8], brains: list[NDArray[np.uint8]]) -> Mask:
    flat = labels.reshape(-1, order="F")
    tumour, brain = _packed(_is_tumour(flat)), np.bitwise_or.reduce(brains)
    voxels, inside = _bits(tumour), _bits(tumour & brain)
    digest = hashlib.blake2b(flat.data, digest_size=16).hexdigest()
    blocks = (flat[start : start + BLOCK] for start in range(0, flat.size, BLOCK))
    counts = sum((np.bincount(block, minlength=IGNORED + 1) for block in blocks), np.zeros(IGNORED + 1, np.int64))
    classes = {name: int(counts[index]) for index, name in enumerate(case.dataset.classes) if index != BACKGROUND}
    return Mask(str(path), digest, voxels, 1 - inside / max(voxels, 1), inside / max(_bits(brain), 1), classes)


def _is_tumour(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    tumour: NDArray[np.bool_] = (labels != BACKGROUND) & (labels != IGNORED)
    return tumour


def _packed(flat: NDArray[Any]) -> NDArray[np.uint8]:
    """Return a bit for each value that is not 0, made block by block."""
    blocks = (flat[start : start + BLOCK] for start in range(0, flat.size, BLOCK))
    return np.concatenate([np.packbits(block != 0) for block in blocks])


def _bits(packed: NDArray[np.uint8]) -> int:
    return int(np.bitwise_count(packed).sum(dtype=np.int64))


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the correlation where either is not 0; 0 where one is constant there."""
    brain = (one != 0) | (other != 0)
    a, b = (image[brain].astype(np.float64) for image in (one, other))
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt(np.dot(a, a) * np.dot(b, b)))
    return float(np.dot(a, b)) / scale if scale else 0.0
