"""A case on disk: read it, verify it, write what belongs to it.

A case is a set of NIfTI files of one examination: up to four modalities and, for training, a mask. Arrays keep the
axes i, j, k of the files, called X, Y, Z everywhere in the project.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from raum_lightning.cases.background import clear_background, cut_out
from raum_lightning.cases.ids import check_id
from raum_lightning.cases.nifti import Volume, read_channels, read_header, read_nifti, write_like
from raum_lightning.cases.patients import patient_of
from raum_lightning.datasets import DataSet, presets
from raum_lightning.errors import CaseError, LabelError

# begins the description in the header of the masks that this project writes
SIGNATURE = "raum"
# before the name of the case in a description, which has no more bytes than this
NOTED, LONGEST_DESCRIPTION = "case=", 79
# what follows it in files of ours that are no masks
NOT_MASKS = ("phantom", "probabilities:", "uncertainty:")

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Case:
    """One examination: the files of its modalities, and its mask where it has one.

    `channels` says where a modality lies along the fourth axis when one file holds several (MSD). `problems` holds what
    was already seen to be wrong while looking for the files. `brain` is its brain mask, where the data set says that
    there is one for the background. `held_out` cases are those that the data set itself keeps for testing.
    """

    id: str
    dataset: DataSet
    images: Mapping[str, Path]
    label: Path | None = None
    channels: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    brain: Path | None = None
    held_out: bool = False

    def __post_init__(self) -> None:
        check_id(self.id)

    def __repr__(self) -> str:
        mask = "no mask" if self.label is None else "mask"
        return f"<Case {self.id}: {', '.join(self.images)}, {mask}, {self.dataset.name}, in {self.folder}>"

    @property
    def edition(self) -> DataSet:
        """The former name of `dataset`, for one release."""
        return self.dataset

    @property
    def prediction_file(self) -> str:
        """Name of the file of its predicted mask."""
        return self.dataset.prediction_file(self.id)

    @property
    def patient(self) -> str:
        """Who was examined: what the data set's `patient` finds in the id, else `patient_of`.

        Raises:
            CaseError: `patient` of a data set of one's own does not fit the id, so that visits could part.
        """
        pattern = self.dataset.patient
        found = re.fullmatch(pattern, self.id) if pattern else None
        if pattern and not found and self.dataset.name not in presets():
            raise CaseError(
                f"case {self.id}: patient: {pattern} of data set {self.dataset.name} does not fit this id; it has to "
                "fit whole ids, as in (p[0-9]+)_.*"
            )
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
        more = [path for path in (self.label, self.brain) if path]
        return list(dict.fromkeys(paths + more))

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return next(iter(self.images.values()), self.label or Path()).parent

    def read(self, modalities: Sequence[str]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """Return the modalities as one array, C X Y Z, and the 4 x 4 affine of the first (voxels to mm).

        Raise `CaseError` when a modality is missing or unreadable, lies on another grid than the first, or holds what
        `cleaned` refuses.
        """
        self.files(modalities)
        shape = read_header(self.images[modalities[0]]).shape[:3]
        # each modality in the order of its file, X first, and one after the other
        image = np.empty((len(modalities), *shape[::-1]), np.float32).transpose(0, 3, 2, 1)
        read = dict(self.volumes(modalities, dict(zip(modalities, image, strict=True))))
        volumes = [read[modality] for modality in modalities]
        for volume in volumes[1:]:
            volume.check_grid(volumes[0])
        return image, volumes[0].affine

    def volumes(
        self, modalities: Sequence[str], out: Mapping[str, NDArray[np.float32]] = MappingProxyType({})
    ) -> Iterator[tuple[str, Volume]]:
        """Yield each modality once, file by file, each file unpacked once; those that `out` names are written there."""
        by_file: dict[Path, dict[int | None, str]] = defaultdict(dict)
        for modality in modalities:
            names = by_file[self.images[modality]]
            channel = self.channels.get(modality)
            if other := names.get(channel):
                raise CaseError(f"{self.images[modality]}: is given as both {other} and {modality}; give each its own")
            names[channel] = modality
        background, brain = self.dataset.background, None
        if isinstance(background, str) and background != "none":
            if self.brain is None:
                raise CaseError(f"case {self.id}: no brain mask ({background}) in {self.folder}")
            brain = read_nifti(self.brain)
        for path, names in by_file.items():
            targets = {channel: out[modality] for channel, modality in names.items() if modality in out}
            for channel, volume in read_channels(path, names, targets):
                if brain is not None:
                    brain.check_grid(volume)
                if background != 0:
                    if brain is None:  # outside of one there may be anything
                        check_values(volume)
                    cut_out(volume.data, background, None if brain is None else brain.data)
                yield names[channel], cleaned(volume)

    def read_labelled(
        self, modalities: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None, NDArray[np.float64]]:
        """Return image C X Y Z, mask as class indices X Y Z (None where the case has none) and affine, on one grid."""
        image, affine = self.read(modalities)
        if self.label is None:
            return image, None, affine
        mask = read_nifti(self.label)
        mask.check_grid(Volume(self.images[modalities[0]], image[0], affine))
        return image, self.encode(mask), affine

    def check_label(self) -> None:
        """Raise `CaseError` where the mask cannot be read, has undeclared values, or lies on another grid."""
        self.read_label()
        first = next(iter(self.images.values()))
        header = read_header(first)
        assert self.label is not None
        zeros = np.broadcast_to(np.float32(0), header.shape[:3])
        read_nifti(self.label).check_grid(Volume(first, zeros, header.affine))

    def read_label(self) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Return the mask as class indices, X Y Z, and its affine; raise `CaseError` for undeclared values."""
        if self.label is None:
            raise CaseError(f"case {self.id}: no mask in {self.folder}")
        mask = read_nifti(self.label)
        return self.encode(mask), mask.affine

    def encode(self, mask: Volume) -> NDArray[np.uint8]:
        """Return class indices of a mask; raise `CaseError` for values that the data set does not declare."""
        try:
            return self.dataset.encode(mask.data)
        except LabelError as error:
            raise CaseError(f"{mask.path}: {error}{_scaling(mask.path)}") from None


def _scaling(path: Path) -> str:
    """Return a remark where the header scales the values of a mask."""
    header = read_header(path)
    scaling = (header.slope or 1, header.intercept or 0)
    return (
        ""
        if scaling == (1, 0)
        else f"; its header scales its values (scl_slope, scl_inter {scaling}): store it without"
    )


def check_values(volume: Volume) -> None:
    """Raise `CaseError` for values that are not finite, and for a constant image."""
    data, path = volume.data, volume.path
    lowest, highest = data.min(), data.max()
    if not np.isfinite([lowest, highest]).all():
        bad = data.size - np.count_nonzero(np.isfinite(data))
        raise CaseError(f"{path}: {bad} voxels are NaN or infinite; repair or leave out the file")
    if lowest == highest:
        raise CaseError(f"{path}: every voxel is {data.flat[0]:g}; the image is empty")


def cleaned(volume: Volume) -> Volume:
    """Return an image whose background is exactly 0; what is 0 in all modalities is outside the brain, in this project.

    Raise `CaseError` for values that are not finite, for a constant image, and for another background than 0. Noise
    that interpolation left around 0 is set to 0, and counted; noise around a head with skull is left alone.
    """
    check_values(volume)
    data, path = volume.data, volume.path
    clear = clear_background(data)
    if clear is not data:
        volume = replace(volume, cleared=int(np.count_nonzero(data) - np.count_nonzero(clear)))
        data[...] = clear
    values, counts = np.unique(edges(data), return_counts=True)
    usual = float(values[counts.argmax()])
    if usual and counts.max() > counts.sum() / 2:
        raise CaseError(
            f"{path}: background is {usual:g}, not 0, so that all of it would be taken for brain; set the voxels "
            "outside the brain to 0"
        )
    return volume


def edges(data: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the voxels along the twelve edges of X Y Z, which no brain reaches."""
    lines = [np.moveaxis(data, axis, -1)[i, j] for axis in range(3) for i in (0, -1) for j in (0, -1)]
    return np.concatenate(lines)


def sample_of(data: NDArray[Scalar], count: int = 2**18) -> NDArray[Scalar]:
    """Return about `count` voxels of X Y Z, evenly spread, the same for all arrays of one shape."""
    flat = data.reshape(-1, order="F")
    return flat[:: max(1, flat.size // count)]


def write_mask(path: Path, labels: NDArray[np.uint8], case: Case, modality: str, remark: str = "") -> None:
    """Write class indices X Y Z in the label values of the case's data set, with the geometry of `modality`.

    The header's description notes the data set, the case where there is room for it, and a `remark`, which
    `read_remark` returns. The file appears whole or not at all.
    """
    description = f"{SIGNATURE} {case.dataset.name} {remark}".rstrip()
    named = f"{SIGNATURE} {case.dataset.name} {NOTED}{case.id} {remark}".rstrip()
    if len(named) <= LONGEST_DESCRIPTION and case.id.isascii() and len(case.id.split()) == 1:
        description = named
    write_like(path, case.dataset.decode(labels), case.images[modality], description)


def read_remark(path: Path) -> tuple[str, str] | None:
    """Return the data set and the remark that `write_mask` noted in a file; None for others' and where it has none."""
    words = _description(path)
    if len(words) < 2 or words[0] != SIGNATURE or words[1] in NOT_MASKS:
        return None
    return words[1], " ".join(word for word in words[2:] if not word.startswith(NOTED))


def other_case(path: Path, name: str) -> str | None:
    """Return a sentence where `write_mask` noted another case than `name` in a file.

    Of single files a case is called as the first of them, so that a beginning of a name is the same.
    """
    words = _description(path)
    noted = next((word.removeprefix(NOTED) for word in words if word.startswith(NOTED)), "")
    if words[:1] != [SIGNATURE] or noted.startswith(name) or name.startswith(noted):
        return None
    return f"{path}: is a mask of case {noted} by its header, and is taken for one of {name}"


def is_ours(path: Path) -> bool:
    """Return whether this project wrote the file, a mask or probabilities."""
    return _description(path)[:1] == [SIGNATURE]


def _description(path: Path) -> list[str]:
    """Return the words of the header's description; none where it cannot be read."""
    try:
        return read_header(path).description.split()
    except CaseError:
        return []
