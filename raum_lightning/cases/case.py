"""A case on disk: read it, verify it, write what belongs to it.

A case is a set of NIfTI files of one examination: up to four modalities and, for training, a mask. Arrays keep the
axes i, j, k of the files, called X, Y, Z everywhere in the project.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from raum_lightning.cases.background import clear_background
from raum_lightning.cases.nifti import UNREADABLE, Volume, loader_of_channels, read_nifti, write_like
from raum_lightning.cases.patients import patient_of
from raum_lightning.datasets import ALIASES, DataSet, names
from raum_lightning.errors import CaseError, LabelError

# begins the description in the header of the masks that this project writes
SIGNATURE = "raum"


@dataclass(frozen=True)
class Case:
    """One examination: the files of its modalities, and its mask where it has one.

    `channels` says where a modality lies along the fourth axis when one file holds several (MSD). `problems` holds what
    was already seen to be wrong while looking for the files.
    """

    id: str
    edition: DataSet
    images: Mapping[str, Path]
    label: Path | None = None
    channels: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def patient(self) -> str:
        """Who was examined: what the data set's `patient` finds in the id, else `patient_of`."""
        found = re.fullmatch(self.edition.patient, self.id) if self.edition.patient else None
        return found[1] if found else patient_of(self.id)

    def files(self, modalities: Sequence[str]) -> list[Path]:
        """The files that hold `modalities` and the mask, each once.

        Raises `CaseError` when a modality is missing or there is one of `problems`.
        """
        if self.problems:
            raise CaseError(f"case {self.id}: {self.problems[0]}")
        for modality in modalities:
            if modality not in self.images:
                have = ", ".join(self.images) or "no modality"
                raise CaseError(f"case {self.id}: {modality} is missing (found {have} in {self.folder})")
        paths = [self.images[modality] for modality in modalities]
        return list(dict.fromkeys(paths + ([self.label] if self.label else [])))

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return next(iter(self.images.values()), self.label or Path()).parent

    def read(self, modalities: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """The modalities as one array, C X Y Z, and the 4 x 4 affine of the first (voxels to mm).

        Raises `CaseError` when a modality is missing or unreadable, holds values that are not finite, is constant, has
        a background other than 0, or lies on another grid than the first.
        """
        self.files(modalities)
        load = loader_of_channels()
        volumes = [self._read_image(modality, load) for modality in modalities]
        for volume in volumes[1:]:
            volume.check_grid(volumes[0])
        return np.stack([volume.data for volume in volumes]), volumes[0].affine

    def read_labelled(
        self, modalities: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None, NDArray[np.float64]]:
        """Image C X Y Z, mask as class indices X Y Z (None where the case has none) and affine, all on one grid."""
        image, affine = self.read(modalities)
        if self.label is None:
            return image, None, affine
        mask = read_nifti(self.label)
        mask.check_grid(Volume(self.images[modalities[0]], image[0], affine))
        return image, self._encode(mask), affine

    def read_label(self) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """The mask as class indices, X Y Z, and its affine; raises `CaseError` for values its edition lacks."""
        if self.label is None:
            raise CaseError(f"case {self.id}: no mask in {self.folder}")
        mask = read_nifti(self.label)
        return self._encode(mask), mask.affine

    def verify(self, modalities: Sequence[str], *, masked: bool = True) -> list[str]:
        """Everything that is wrong with the case, a sentence each; an empty list when it can be trained on.

        Without `masked` it need not have a mask.
        """
        problems = list(self.problems)
        missing = [modality for modality in modalities if modality not in self.images]
        if masked and self.label is None:
            missing.append("mask")
        if missing:
            problems.append(f"missing: {', '.join(missing)}")
        reference: Volume | None = None
        load = loader_of_channels()
        for modality in (*self.images, "mask"):
            try:
                if modality != "mask":
                    volume = self._read_image(modality, load)
                elif self.label is not None:
                    volume = read_nifti(self.label)
                    self._encode(volume)
                else:
                    continue
                reference = reference or volume
                volume.check_grid(reference)
            except CaseError as error:
                problems.append(str(error))
        return list(dict.fromkeys(problems))  # those of a 4-D file once

    def _read_image(self, modality: str, load: Callable[[Path], Any]) -> "Volume":
        volume = read_nifti(self.images[modality], self.channels.get(modality), load=load)
        if bad := np.count_nonzero(~np.isfinite(volume.data)):
            raise CaseError(f"{volume.path}: {bad} voxels are NaN or infinite")
        if volume.data.min() == volume.data.max():
            raise CaseError(f"{volume.path}: every voxel is {volume.data.flat[0]:g}; the image is empty")
        volume = replace(volume, data=clear_background(volume.data))
        corners = {float(volume.data[corner]) for corner in product((0, -1), repeat=3)}
        if len(corners) == 1 and corners != {0.0}:
            raise CaseError(
                f"{volume.path}: background is {corners.pop():g}, not 0, so that all of it would be taken for brain; "
                "set the voxels outside the brain to 0"
            )
        return volume

    def _encode(self, mask: "Volume") -> NDArray[np.uint8]:
        try:
            return self.edition.encode(mask.data)
        except LabelError as error:
            raise CaseError(f"{mask.path}: {error}") from None


def write_mask(path: Path, labels: NDArray[np.uint8], case: Case, modality: str, remark: str = "") -> None:
    """Writes class indices X Y Z in the label values of the case's edition, with geometry and header of `modality`.

    The header's description notes the edition and a `remark`, which `read_remark` returns. The file appears whole or
    not at all.
    """
    description = f"{SIGNATURE} {case.edition.name} {remark}".rstrip()
    write_like(path, case.edition.decode(labels), case.images[modality], description)


def read_remark(path: Path) -> tuple[str, str] | None:
    """The edition and the remark that `write_mask` noted in a file; None for others' files and where there is none."""
    words = _description(path)
    if len(words) < 2 or words[0] != SIGNATURE or words[1] not in (*names(), *ALIASES):
        return None
    return words[1], " ".join(words[2:])


def is_ours(path: Path) -> bool:
    """Return whether this project wrote the file, a mask or probabilities."""
    return _description(path)[:1] == [SIGNATURE]


def _description(path: Path) -> list[str]:
    """Return the words of the header's description; none where it cannot be read."""
    try:
        words: list[str] = nib.load(path).header["descrip"].item().decode("ascii", "replace").split()
    except UNREADABLE:
        return []
    return words
