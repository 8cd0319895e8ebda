"""Prepared volumes: cropped to the brain, z-scored, and laid out so that a patch is read without decoding a NIfTI.

Each case becomes a folder `<id>-<fingerprint>` holding

    image.npy       C X Y Z, float16: every modality z-scored over the brain, 0 outside it
    label.npy       X Y Z, uint8 class indices (cases with a mask)
    tumour.npy      int32 flat indices of the tumour's voxels, sorted by class (cases with a mask)
    case.json       what is needed to go back: crop, original shape and affine, from which the reorientation follows;
                    and the checksum of each array

X, Y, Z run towards left, posterior and superior (LPS): cases of any orientation are reoriented, by permuting and
reversing axes, which changes no value.

The fingerprint covers the source files (path, size, time of change), modalities and data set: a case is prepared
again when any of them changes, and `raum prepare --clean` removes what is then not needed any more. Folders appear
whole, by renaming, so that several processes may prepare the same cases at once and a killed one leaves nothing half
done under a final name. What a crash of the machine left damaged is prepared again.
"""

import errno
import hashlib
import json
import os
import shutil
import uuid
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raum_lightning.atomic import not_written, partial_path, remove_partials
from raum_lightning.cases.case import Case
from raum_lightning.data.normalise import normalise
from raum_lightning.datasets import IGNORED
from raum_lightning.errors import CaseError
from raum_lightning.geometry import Matrix, Reorientation, voxel_size
from raum_lightning.labels import BACKGROUND
from raum_lightning.machine import usable_cores

# part of the fingerprint: goes up when what is stored changes
LAYOUT = 4
# where the axes of prepared arrays run
ORIENTATION = "LPS"
# bytes and number of the blocks that a checksum covers, evenly spread over a file
BLOCK, BLOCKS = 4096, 64


@dataclass(frozen=True)
class Prepared:
    """A prepared case.

    `start` is where the crop begins in the reoriented array, in voxels; `shape` and `affine` are the file's.
    `tumour` maps a class index to its number of voxels, `checksums` the name of an array's file to its `checksum`.
    """

    folder: Path
    id: str
    dataset: str
    modalities: tuple[str, ...]
    start: tuple[int, int, int]
    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]
    tumour: dict[int, int] | None
    checksums: dict[str, str]

    @classmethod
    def open(cls, folder: Path) -> "Prepared":
        """Read `case.json`; arrays are mapped when they are asked for, and checked by `find_damage` before."""
        content = json.loads((folder / "case.json").read_text())
        if "edition" in content:  # the key of before
            content["dataset"] = content.pop("edition")
        tumour = content.pop("tumour")
        frozen = {key: _frozen(value) for key, value in content.items()}
        counts = tumour and {int(k): v for k, v in tumour.items() if int(k) != IGNORED}
        return cls(folder, tumour=counts, **frozen)

    @property
    def image(self) -> NDArray[np.float16]:
        """C X Y Z, float16, mapped from disk."""
        image: NDArray[np.float16] = self._map("image")
        return image

    @property
    def label(self) -> NDArray[np.uint8]:
        """X Y Z, class indices, mapped from disk."""
        label: NDArray[np.uint8] = self._map("label")
        return label

    def tumour_voxels(self, index: int | None = None) -> NDArray[np.int32]:
        """Return flat indices into the crop of all tumour voxels, or of those of one class, mapped from disk."""
        voxels: NDArray[np.int32] = self._map("tumour")
        if self.tumour is None:
            return voxels
        if index is None:
            return voxels[: sum(self.tumour.values())]  # those to ignore come last
        before = sum(count for other, count in self.tumour.items() if other < index)
        return voxels[before : before + self.tumour[index]]

    @cached_property
    def reorientation(self) -> Reorientation:
        """From the original grid to that of the prepared arrays."""
        return Reorientation(ORIENTATION, self.shape, np.asarray(self.affine))

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along X, Y, Z."""
        return voxel_size(self.reorientation.affine)

    @property
    def crop_affine(self) -> Matrix:
        """4 x 4, from the crop's voxels to mm."""
        affine = self.reorientation.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ self.start
        return affine

    def uncrop(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a mask of the crop, X Y Z, on the original grid, background around it."""
        full = np.zeros(self.reorientation.shape, labels.dtype)
        full[tuple(slice(a, a + n) for a, n in zip(self.start, labels.shape, strict=True))] = labels
        return np.ascontiguousarray(self.reorientation.undo(full))

    def _map(self, name: str) -> Any:
        path = self.folder / f"{name}.npy"
        try:
            return np.load(path, mmap_mode="c")  # copy-on-write, as torch takes no read-only arrays
        except (OSError, ValueError) as error:
            raise CaseError(f"{path}: cannot be read ({error}); `raum prepare` repairs it") from None


def prepare(
    cases: Sequence[Case],
    folder: Path,
    modalities: Sequence[str],
    *,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Prepare the cases that are not, or whose arrays are damaged; return a sentence for each that was.

    `progress` is told (done, of). Threads suffice: decompression and NumPy release the interpreter's lock.

    Raises:
        CaseError: Listing the cases that cannot be used, after all were tried; what was prepared stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)
    problems: list[str] = []
    with ThreadPoolExecutor(workers or min(8, usable_cores())) as pool:
        damage = [found for found in pool.map(partial(_remove_damaged, folder, modalities), cases) if found]
        missing = [case for case in cases if not is_prepared(case, folder, modalities)]
        for done, problem in enumerate(pool.map(partial(_prepare_case, folder, modalities), missing), 1):
            problems += [problem] if problem else []
            if progress:
                progress(done, len(missing))
    if problems:
        listed = "\n  ".join(problems)
        raise CaseError(
            f"{len(problems)} of {len(cases)} cases cannot be used; repair them or list their ids under data.exclude:"
            f"\n  {listed}"
        )
    return damage


def prepared_folder(case: Case, folder: Path, modalities: Sequence[str]) -> Path:
    """Return where `case` lies once it is prepared; raise `CaseError` when a modality is missing."""
    sources = [(str(path.resolve()), *_stat(path)) for path in case.files(modalities)]
    channels = [case.channels.get(modality) for modality in modalities]
    known = case.dataset
    dataset = (known.name, sorted(known.indices.items()), *([known.background] if known.background else []))
    key = json.dumps([LAYOUT, list(modalities), dataset, channels, sources])
    return folder / f"{case.id}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def is_prepared(case: Case, folder: Path, modalities: Sequence[str]) -> bool:
    """Return whether the folder of a case is there; False for a case that cannot be prepared."""
    try:
        return prepared_folder(case, folder, modalities).exists()
    except CaseError:  # which `_prepare_case` reports
        return False


def find_damage(folder: Path) -> str | None:
    """Return what is wrong with a prepared folder, or None; see `checksum` for what is seen."""
    try:
        case = Prepared.open(folder)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return f"{folder / 'case.json'} cannot be read"
    for name, expected in case.checksums.items():
        try:
            found = checksum(folder / name)
        except OSError as error:
            return f"{folder / name} cannot be read ({error.strerror})"
        if found != expected:
            return f"{folder / name} is not what was written"
    return None


def checksum(path: Path) -> str:
    """Return the size of a file and a checksum of its first, its last and evenly spread blocks between them.

    That costs milliseconds and sees what a crash leaves: files cut short or with stretches of zeros. A single changed
    byte in a large file it may miss.
    """
    total = 0
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for index in range(BLOCKS):
            file.seek(max(0, size - BLOCK) * index // (BLOCKS - 1))
            total = zlib.crc32(file.read(BLOCK), total)
    return f"{size}-{total:08x}"


def _remove_damaged(folder: Path, modalities: Sequence[str], case: Case) -> str | None:
    if not is_prepared(case, folder, modalities):
        return None
    target = prepared_folder(case, folder, modalities)
    if not (damage := find_damage(target)):
        return None
    aside = partial_path(folder / f"{case.id}-{uuid.uuid4().hex}")
    with suppress(OSError):  # where another process was faster
        target.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    return f"case {case.id} is prepared again: {damage}"


def _prepare_case(folder: Path, modalities: Sequence[str], case: Case) -> str | None:
    partial_folder = partial_path(folder / f"{case.id}-{uuid.uuid4().hex}")
    try:
        target = prepared_folder(case, folder, modalities)
        if target.exists():  # meanwhile, by another process
            return None
        image, label, affine = case.read_labelled(modalities)
        shape = image.shape[1:]
        reorientation = Reorientation(ORIENTATION, shape, affine)
        image, label = reorientation(image), None if label is None else reorientation(label)
        normalised, crop = normalise(image, None if label is None else label != BACKGROUND)
        partial_folder.mkdir()
        _save(partial_folder / "image.npy", normalised)
        content = {
            "id": case.id,
            "dataset": case.dataset.name,
            "modalities": list(modalities),
            "start": [int(axis.start) for axis in crop],
            "shape": shape,
            "affine": affine.tolist(),
            "tumour": None if label is None else _save_label(partial_folder, label[crop]),
        }
        content["checksums"] = {path.name: checksum(path) for path in sorted(partial_folder.glob("*.npy"))}
        (partial_folder / "case.json").write_text(json.dumps(content))
        partial_folder.rename(target)
    except CaseError as error:
        return str(error)
    except OSError as failure:
        if not target.exists():  # else another process was first
            raise not_written(target, failure) from failure
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)
    return None


def _save_label(folder: Path, label: NDArray[np.uint8]) -> dict[int, int]:
    _save(folder / "label.npy", np.ascontiguousarray(label))
    flat = label.ravel()
    voxels = np.flatnonzero(flat).astype(np.int32)
    classes = flat[voxels]
    _save(folder / "tumour.npy", voxels[np.argsort(classes, kind="stable")])
    return {int(index): int(count) for index, count in zip(*np.unique(classes, return_counts=True), strict=True)}


def _save(path: Path, array: NDArray[Any]) -> None:
    try:
        np.save(path, array)
    except OSError as failure:
        if failure.errno is None:  # of NumPy, where the system took a part of the bytes
            failure = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise failure from None


def _stat(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise CaseError(f"{path}: no such file") from None
    except OSError as error:
        raise CaseError(f"{path}: cannot be read ({error.strerror})") from None
    return status.st_size, status.st_mtime_ns


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
