"""Synthetic BraTS cases: a head with a glioma-like tumour in four contrasts, and its mask, from a seed.

Thresholds are made to fail: cysts, swollen ventricles and spots in the white matter are as bright on FLAIR and T2 as
edema, vessels, sinus and choroid plexus as bright on T1ce as the enhancing rim, and every contrast has a bias field
and a scale of its own. What tells them apart is form, place and the other contrasts.
"""

import gzip
import hashlib
import tempfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from raum_lightning.atomic import not_written
from raum_lightning.datasets import DataSet, load
from raum_lightning.errors import ConfigError
from raum_lightning.machine import usable_cores
from raum_lightning.phantom.anatomy import Brain, Field, Sampling, build_brain, cover, union
from raum_lightning.phantom.layout import case_id, classes_of, contrast, files_of, listed, with_skull, write_index
from raum_lightning.phantom.lesions import Lesions, Noise, grow_cysts, grow_lesions
from raum_lightning.progress import progress_bar

MODALITIES = ("flair", "t1", "t1ce", "t2")
VERSION = 1  # of the generator: raise it whenever the same seed gives other voxels
MIN_SIZE = 32
SIGNATURE = "raum phantom"

# Mean intensities in the order of MODALITIES, where white matter on T1 is 1.
MATERIALS: dict[str, tuple[float, float, float, float]] = {
    #             FLAIR   T1   T1ce   T2
    "csf": (0.35, 0.38, 0.36, 2.20),
    "grey": (1.05, 0.76, 0.78, 1.15),
    "white": (0.87, 1.00, 1.00, 0.85),
    "nuclei": (1.00, 0.86, 0.88, 1.00),
    "spots": (1.50, 0.93, 0.94, 1.15),
    "vessels": (0.75, 0.85, 1.70, 0.50),
    "choroid": (1.35, 0.80, 1.50, 1.40),
    "cysts": (1.60, 0.42, 0.42, 2.10),
    "edema": (1.55, 0.76, 0.78, 1.50),
    "necrosis": (1.05, 0.55, 0.52, 1.75),
    "enhancing": (1.40, 0.74, 1.45, 1.35),
}


@dataclass(frozen=True)
class Phantom:
    """One case: `images` int16 by modality, 0 outside the brain and positive inside, `labels` class indices, X Y Z.

    `affine` maps voxels to mm as in BraTS. `recipe` is all that the case follows from, in words.
    """

    images: dict[str, NDArray[np.int16]]
    labels: NDArray[np.uint8]
    affine: NDArray[np.float64]
    recipe: str


def _recipe(*, seed: int, index: int, shape: tuple[int, int, int], layout: str = "") -> str:
    """All that a case follows from, or a hash of it, in the 80 bytes that a NIfTI description has."""
    if min(shape) < MIN_SIZE:
        raise ConfigError(f"shape {shape} is too small for a head: give at least {MIN_SIZE} voxels along each axis")
    if seed < 0:
        raise ConfigError(f"seed {seed} is negative: give 0 or more")
    named = f" {layout}" if layout else ""
    text = f"{SIGNATURE} {VERSION}{named}, shape {'x'.join(map(str, shape))}, seed {seed}"
    if len(text) > 64 or not text.isascii():
        text = f"{SIGNATURE} {VERSION} {hashlib.sha256(text.encode()).hexdigest()[:16]}"
    return f"{text}, case {index}"


def phantom_case(*, seed: int, index: int, shape: tuple[int, int, int] = (240, 240, 155)) -> Phantom:
    """Case `index` of a seed, the same bits whatever else is made. A smaller shape is the same head, sampled coarsely.

    Raises `ValueError` for a shape below 32 voxels or a negative seed.
    """
    recipe = _recipe(seed=seed, index=index, shape=shape)
    rng = np.random.default_rng([seed, index])
    (grain,) = rng.spawn(1)
    sampling = Sampling(shape)
    brain = build_brain(sampling, rng)

    def noise(spacing: float) -> Field:
        return sampling.noise(rng, spacing)[brain.mask]

    cysts = grow_cysts(brain, rng)
    lesions = grow_lesions(brain, union(brain.ventricles, cysts), noise, rng)
    images = _paint(_layers(brain, cysts, lesions, noise, rng, sampling.voxel), _materials(rng), brain.depth.size)
    tumour = cover(lesions.whole, 3)
    intensities = {
        name: _acquire(image * (1 + 0.1 * tumour * noise(9.0)), noise(75.0), rng.uniform(200, 700), grain)
        for name, image in zip(MODALITIES, images, strict=True)
    }

    def embed(values: NDArray[Any]) -> NDArray[Any]:
        canvas = np.zeros(shape, values.dtype)
        canvas[sampling.box][brain.mask] = values
        return canvas

    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = shape[1] - 1
    return Phantom(
        images={name: embed(values) for name, values in intensities.items()},
        labels=embed(lesions.labels()),
        affine=affine,
        recipe=recipe,
    )


def _materials(rng: np.random.Generator) -> dict[str, list[float]]:
    """This case's intensities: a little off the table, the ventricles anywhere from dark to bright on FLAIR."""
    materials = {name: np.multiply(row, rng.uniform(0.94, 1.06, len(row))).tolist() for name, row in MATERIALS.items()}
    dark, bright = materials["csf"][0], materials["cysts"][0]
    unsuppressed = rng.uniform(0, 1) if rng.random() < 0.6 else 0.0
    materials["ventricles"] = [dark + unsuppressed**2 * (bright - dark), *materials["csf"][1:]]
    materials["edema"][0] *= rng.uniform(0.9, 1.1)
    return materials


def _layers(
    brain: Brain, cysts: Field, lesions: Lesions, noise: Noise, rng: np.random.Generator, voxel: float
) -> Iterator[tuple[str, Field]]:
    """Materials to be laid over the fluid that fills the skull, in order, with the part of each voxel they take."""
    yield "grey", cover(1.0 - brain.cortex, voxel)
    yield "white", cover(4.2 - brain.cortex, 2 * voxel)
    yield "nuclei", cover(brain.nuclei, 2 * voxel)
    yield "spots", cover(_spots(brain, noise, rng), 3)
    yield "vessels", cover(_vessels(brain, noise(16.0)), voxel)
    yield "cysts", cover(cysts, voxel)
    yield "ventricles", cover(brain.ventricles, voxel)
    yield "choroid", cover(np.maximum(brain.choroid, brain.ventricles), voxel)
    yield "edema", cover(lesions.whole, 3)
    yield "necrosis", cover(lesions.core, voxel)
    if lesions.enhancing:
        yield "enhancing", cover(np.maximum(lesions.core, -lesions.necrosis), voxel)


def _spots(brain: Brain, noise: Noise, rng: np.random.Generator) -> Field:
    """Bright spots in the deep white matter, and caps around the ventricles."""
    scattered = 5 * (rng.uniform(1.8, 3.0) - noise(7.0))
    caps = brain.ventricles - rng.uniform(-1, 4) + 1.5 * noise(12.0)
    return np.maximum(union(scattered, caps), 8 - brain.cortex)


def _vessels(brain: Brain, noise: Field) -> Field:
    """Tubes along the bottom of sulci, where two noise fields vanish at once, and the sagittal sinus."""
    x, y, z = brain.points
    upper = np.maximum(-z, 20 - y - z)  # above and behind
    sinus = np.maximum(np.hypot(x, np.maximum(brain.depth - 2, 0)) - 3, upper)
    return union(np.hypot(brain.fold, 12 * np.abs(noise)) - 1.3, sinus)


def _paint(layers: Iterator[tuple[str, Field]], materials: dict[str, list[float]], count: int) -> list[Field]:
    """Images in the order of MODALITIES, without bias and noise."""
    images = [np.full(count, value, np.float32) for value in materials["csf"]]
    for name, part in layers:
        for image, value in zip(images, materials[name], strict=True):
            image += part * (value - image)
    return images


def _acquire(image: Field, bias: Field, scale: float, grain: np.random.Generator) -> NDArray[np.int16]:
    """What a scanner makes of an image: a bias field, noise, and positive integers in a scale of its own."""
    noisy = image * np.exp(0.16 * bias) + 0.035 * grain.standard_normal(image.size, np.float32)
    counts: NDArray[np.int16] = np.rint(noisy * scale).clip(min=1).astype(np.int16)
    return counts


def write_phantoms(
    root: Path,
    *,
    cases: int,
    seed: int = 0,
    shape: tuple[int, int, int] = (240, 240, 155),
    dataset: DataSet | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> int:
    """Write the first `cases` cases of a seed to `root`; return how many were not there already.

    They have the files, modalities and label values of `dataset`, BraTS 2020 where not given. Intact cases of the same
    seed and shape are kept, other phantoms at their place replaced.

    Raises:
        ConfigError: `root` holds anything but phantoms, or phantoms of another seed, shape or data set that would stay
            among the new ones.
    """
    if cases < 1:
        raise ConfigError(f"{cases} cases asked for: give 1 or more")
    usual = load("brats2020")
    known = listed(dataset or usual)
    layout = "" if known == usual else known.name
    recipes = [_recipe(seed=seed, index=index, shape=shape, layout=layout) for index in range(cases)]
    names = [case_id(known, index) for index in range(cases)]
    targets = [{role: root / file for role, file in files_of(known, name).items()} for name in names]
    _refuse_mixture(root, recipes, {path for files in targets for path in files.values()})
    root.mkdir(parents=True, exist_ok=True)

    def write(index: int) -> bool:
        if all(_description(path, whole=True) == recipes[index] for path in targets[index].values()):
            return False
        phantom = phantom_case(seed=seed, index=index, shape=shape)
        _write(replace(phantom, recipe=recipes[index]), targets[index], known, seed + index)
        return True

    # threads do: nearly all the time goes into NumPy and zlib, which release the interpreter's lock
    written = 0
    with ThreadPoolExecutor(workers or min(usable_cores(), 8)) as pool, progress_bar("writing cases") as update:
        for done, new in enumerate(pool.map(write, range(cases)), 1):
            written += new
            if progress:
                update(done, cases)
    write_index(root, known, names)
    return written


def write_case(phantom: Phantom, folder: Path, name: str) -> None:
    """Write the files of a case in the layout of BraTS 2020, each of which appears whole; `folder` is made for it."""
    known = load("brats2020")
    _write(phantom, {role: folder / Path(file).name for role, file in files_of(known, name).items()}, known, 0)


def _write(phantom: Phantom, targets: Mapping[str, Path], dataset: DataSet, seed: int) -> None:
    brain = next(iter(phantom.images.values())) > 0
    volumes: dict[str, NDArray[Any]] = {}
    for position, modality in enumerate(dataset.images):
        image = phantom.images[contrast(modality, position)]
        volumes[modality] = with_skull(image, brain, seed) if dataset.background == "none" else image
    if dataset.channels:
        first = next(iter(volumes))
        volumes = {first: np.stack(list(volumes.values()), axis=-1)}
    volumes["mask"] = dataset.decode(classes_of(dataset, phantom.labels))
    for role, volume in volumes.items():
        image = nib.Nifti1Image(volume, phantom.affine)
        image.set_sform(phantom.affine, code="scanner")
        image.set_qform(phantom.affine, code="scanner")
        image.header.set_xyzt_units("mm")
        image.header["descrip"] = phantom.recipe
        target = targets[role]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".phantom-", dir=target.parent) as temporary:
                nib.save(image, Path(temporary) / target.name)
                (Path(temporary) / target.name).replace(target)
        except OSError as failure:
            raise not_written(target, failure) from failure


def _description(path: Path, *, whole: bool = False) -> str | None:
    """What a NIfTI-1 file says of itself; None where it cannot be read, with `whole` to its end and checksum."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(-1 if whole else 348)
    except (OSError, EOFError, zlib.error):
        return None
    if len(header) < 348:
        return None
    return header[148:228].rstrip(b"\0").decode("latin-1")


def _refuse_mixture(root: Path, recipes: list[str], replaced: Collection[Path]) -> None:
    """Raise `ConfigError` where `root` holds images that are not ours, or would hold phantoms of two kinds."""
    kind = recipes[0].rpartition(",")[0]
    for path in sorted(root.rglob("*.nii*")) if root.is_dir() else ():
        found = _description(path)
        if found is not None and not found.startswith(SIGNATURE):
            raise ConfigError(f"{path} is not a phantom: give a folder of its own to phantoms")
        if found is not None and path not in replaced and found.rpartition(",")[0] != kind:
            raise ConfigError(f"{path} is a {found} and would stay among others: delete it or give another folder")
