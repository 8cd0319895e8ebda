"""The scans of one examination as a case whose images lie voxel on voxel, and masks of it back on the T1ce."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raum_lightning.cases import registration
from raum_lightning.cases.case import cleaned
from raum_lightning.cases.nifti import Volume, read_nifti, write_like
from raum_lightning.cases.registration import centre_of, resample
from raum_lightning.errors import CaseError


@dataclass(frozen=True)
class Scans:
    """What lies on disk: the volume of each modality, and X Y Z boolean on the grid of the T1ce, where the brain is."""

    volumes: Mapping[str, Volume]
    brain: NDArray[np.bool_]

    @property
    def t1ce(self) -> Volume:
        """The volume that the others are registered to."""
        return self.volumes["t1ce"]


@dataclass(frozen=True)
class Aligned:
    """The images of a case on the grid of `reference`, the T1ce or an atlas, X Y Z, and 0 outside the brain.

    `motion` maps points of that grid to the T1ce, 4 x 4 in mm.
    """

    images: Mapping[str, NDArray[np.float32]]
    reference: Volume
    t1ce: Volume
    motion: NDArray[np.float64]

    def write(self, folder: Path, name: str) -> dict[str, Path]:
        """Write a file for each modality and return them."""
        files = {modality: folder / f"{name}_{modality}.nii.gz" for modality in self.images}
        for modality, path in files.items():
            write_like(path, self.images[modality], self.reference.path, f"raum {modality}")
        return files

    def back(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return class indices X Y Z of this case on the grid of the T1ce: of the class with the largest share."""
        if self.reference is self.t1ce:
            return labels
        inverse = np.linalg.inv(self.motion).astype(np.float64)
        native = np.zeros(self.t1ce.data.shape, np.uint8)
        largest = np.zeros(native.shape, np.float32)
        for index in np.unique(labels):
            one = replace(self.reference, data=(labels == index).astype(np.float32))
            shares = resample(one, self.t1ce, inverse)
            native[shares > largest] = index
            np.maximum(largest, shares, out=largest)
        return native


def read_scans(images: Mapping[str, Path], brain: Path | None) -> Scans:
    """Read the images, of which one is the T1ce, and the mask of its brain; without one, what is 0 in it is outside.

    Raises:
        CaseError: A file cannot be read, or the mask lies on another grid than the T1ce or holds nothing.
    """
    volumes = {modality: read_nifti(path) for modality, path in images.items()}
    if brain is None:
        volumes["t1ce"] = cleaned(volumes["t1ce"])
        return Scans(volumes, volumes["t1ce"].data != 0)
    mask = read_nifti(brain)
    mask.check_grid(volumes["t1ce"])
    if not mask.data.any():
        raise CaseError(f"{brain}: is 0 everywhere; give the mask of the brain")
    return Scans(volumes, mask.data != 0)


def align(scans: Scans, atlas: Path | None, say: Callable[[str], None]) -> Aligned:
    """Register all to the T1ce and, where given, the T1ce to a skull-stripped atlas; say how far each was moved.

    Every image is interpolated once.
    """
    t1ce = scans.t1ce
    centre = centre_of(replace(t1ce, data=scans.brain.astype(np.float32)))
    reference, motion, brain = t1ce, np.eye(4), scans.brain
    if atlas:
        reference = read_nifti(atlas)
        stripped = replace(t1ce, data=np.where(brain, t1ce.data, 0))
        motion = registration.register(reference, stripped, centred=True)
        brain = resample(replace(t1ce, data=brain.astype(np.float32)), reference, motion) >= 0.5
        inverse = np.linalg.inv(motion).astype(np.float64)
        say(_moved(f"to {atlas.name}", inverse, centre))
    images = {}
    for modality, volume in scans.volumes.items():
        path = motion
        if volume is not t1ce:
            found = registration.register(t1ce, volume)
            path = found @ motion
            say(_moved(modality, found, centre))
        kept = volume.data if volume is reference else resample(volume, reference, path)
        images[modality] = np.where(brain, kept, 0)
    return Aligned(images, reference, t1ce, motion)


def _moved(what: str, motion: NDArray[np.float64], centre: NDArray[np.float64]) -> str:
    angle = np.degrees(np.arccos(np.clip((np.trace(motion[:3, :3]) - 1) / 2, -1, 1)))
    shift = np.linalg.norm((motion @ centre - centre)[:3])
    return f"{what}: moved by {shift:.1f} mm at the centre of the brain and turned by {angle:.1f} degrees"
