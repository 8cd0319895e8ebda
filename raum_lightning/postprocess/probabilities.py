"""The probabilities of a case in a file, by which thresholds of regions are found and applied.

`<case>.npz` is NumPy's: `probabilities` K x y z, float16, in the box of the brain; `start`, the first voxel of that box
on the grid of the case's files, whose size X Y Z is `shape`; `channels`, the names of the classes (mode "labels") or
regions ("regions"); `mode`; and `key`, a fingerprint of what made them. Outside of the box is certain background. They
are those of the network, before the temperature of its model card.
"""

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from raum_lightning.atomic import atomic
from raum_lightning.datasets import DataSet
from raum_lightning.errors import EvaluationError
from raum_lightning.geometry import MAX_VOXELS, Box
from raum_lightning.labels import NO_THRESHOLDS, Thresholds, from_probabilities
from raum_lightning.postprocess import Postprocess

ENDING, VALUES = ".npz", "probabilities"
# what NumPy raises for a file that is damaged or another one
UNREADABLE = (OSError, ValueError, TypeError, KeyError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error)
# bytes that any other array takes, and the header of an array
MAX_BYTES, HEADER = 2**16, 2**12
# of the voxels of a tumour, how many may differ where float16 rounds, and where a mask is another
SAME = 0.01


@dataclass(frozen=True)
class Probabilities:
    """What a network says of a case, on the grid of its files.

    Args:
        values: K x y z in [0, 1], float16, in the box of the brain.
        start: First voxel of that box.
        shape: X Y Z of the grid.
        channels: Names of the classes, background first, or of the regions.
        mode: What the channels are: "labels" (classes) or "regions".
        key: Fingerprint of what made them.
    """

    values: NDArray[np.float16]
    start: tuple[int, ...]
    shape: tuple[int, ...]
    channels: tuple[str, ...]
    mode: str
    key: str = ""

    @classmethod
    def of(cls, whole: NDArray[np.float32], box: Box, channels: tuple[str, ...], mode: str, key: str = "") -> Self:
        """Return those of K X Y Z that lie in a box."""
        start = tuple(side.start or 0 for side in box)
        return cls(whole[:, *box].astype(np.float16), start, whole.shape[1:], channels, mode, key)

    def save(self, path: Path) -> None:
        """Write them, whole or not at all."""
        with atomic(path) as partial, partial.open("wb") as file:
            np.savez_compressed(
                file,
                probabilities=self.values,
                start=np.array(self.start),
                shape=np.array(self.shape),
                channels=np.array(self.channels),
                mode=np.array(self.mode),
                key=np.array(self.key),
            )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return what `save` wrote; raise `EvaluationError` for other files."""
        try:
            with path.open("rb") as file, np.load(file) as content:
                sizes = {entry.filename: entry.file_size for entry in content.zip.infolist()}
                values = sizes.pop(f"{VALUES}.npy")
                # looked at before anything is unpacked: some MB may unpack to many GB
                if any(size > MAX_BYTES for size in sizes.values()):
                    raise ValueError("an array is too large")
                start, shape = (tuple(map(int, content[name])) for name in ("start", "shape"))
                channels = tuple(map(str, content["channels"]))
                if values - HEADER > 2 * len(channels) * min(math.prod(shape), MAX_VOXELS):
                    raise ValueError(f"{values:,} bytes of probabilities in a grid of {shape} voxels")
                return cls(content[VALUES], start, shape, channels, str(content["mode"]), str(content["key"]))
        except FileNotFoundError:
            raise EvaluationError(f"{path}: no such file; `raum segment --cases --probabilities` writes it") from None
        except UNREADABLE as error:
            raise EvaluationError(f"{path}: holds no probabilities of `raum segment` ({error})") from None

    def labels(self, dataset: DataSet, thresholds: Thresholds = NO_THRESHOLDS) -> NDArray[np.uint8]:
        """Return the mask X Y Z in class indices of a data set; raise `EvaluationError` where it has other classes."""
        known = dataset.classes if self.mode == "labels" else tuple(dataset.regions)
        if unknown := set(self.channels) - set(known) or (self.mode == "regions" and set(known) - set(self.channels)):
            raise EvaluationError(
                f"the probabilities are of {', '.join(self.channels)}, and {dataset.name} has {', '.join(known)}: "
                f"{min(unknown)} is in one of them only"
            )
        values = torch.from_numpy(self.values.astype(np.float32))[None]
        if self.mode == "regions":
            order = [self.channels.index(name) for name in known]
            inside = from_probabilities(values[:, order], self.mode, dataset.regions, thresholds)
        else:
            own = [known.index(name) for name in self.channels]
            regions = {
                name: tuple(channel for channel, index in enumerate(own) if index in members)
                for name, members in dataset.regions.items()
            }
            chosen = from_probabilities(values, self.mode, regions, thresholds)
            inside = torch.tensor(own, dtype=torch.uint8)[chosen.long()]
        whole = np.zeros(self.shape, np.uint8)
        sides = zip(self.start, self.values.shape[1:], strict=True)
        whole[tuple(slice(first, first + size) for first, size in sides)] = inside[0].numpy()
        return whole

    def check(self, path: Path, mask: NDArray[np.uint8], dataset: DataSet) -> None:
        """Raise `EvaluationError` where a mask X Y Z is not what these probabilities say."""
        if mask.shape != self.shape:
            raise EvaluationError(f"{path}: is of a grid of {self.shape} voxels, and the mask of {mask.shape}")
        own = self.labels(dataset)
        differ = np.count_nonzero(own != mask)
        if differ > SAME * max(int(np.count_nonzero(own)), int(np.count_nonzero(mask)), 100):
            raise EvaluationError(
                f"{path}: differs from the mask in {differ} voxels; give masks of the same network that no step has "
                "cleaned (--postprocess none)"
            )


def probabilities_path(folder: Path, case: str) -> Path:
    """Return where the probabilities of a case lie."""
    return folder / f"{case}{ENDING}"


def by_thresholds(
    mask: NDArray[np.uint8], steps: Postprocess, dataset: DataSet, folder: Path | None, case: str
) -> NDArray[np.uint8]:
    """Return the mask X Y Z of a case by the thresholds of the steps, or the one that is given where there are none.

    Raises `EvaluationError` where the folder lacks its probabilities, or they are of another mask.
    """
    if not steps.threshold:
        return mask
    assert folder is not None, "thresholds without probabilities"
    path = probabilities_path(folder, case)
    found = Probabilities.read(path)
    found.check(path, mask, dataset)
    steps.check(dataset.regions)
    return found.labels(dataset, steps.threshold)
