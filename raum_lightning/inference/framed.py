"""The way of a case's volumes into the frame of a network and back, with no more of them in memory than must be.

Only the box of the brain is held, modalities are read one after the other, and what the network sees is kept in
float16, the precision in which cases are prepared for training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from raum_lightning.cases.case import Case
from raum_lightning.cases.nifti import Volume
from raum_lightning.data.absent import fill_absent, stand_ins
from raum_lightning.data.normalise import z_scores
from raum_lightning.errors import GeometryError
from raum_lightning.geometry import Box, Frame, Matrix, Resampler, bounding_box
from raum_lightning.inference.sliding_window import decide
from raum_lightning.labels import NO_THRESHOLDS, Regions, Thresholds


@dataclass(frozen=True)
class Grid:
    """Where the brain of a case lies: X Y Z and affine of its files, and in them the box of the brain.

    `brain` is boolean, in the box.
    """

    shape: tuple[int, ...]
    affine: Matrix
    box: Box
    brain: NDArray[np.bool_]
    resampler: Resampler

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000


def read_framed(
    case: Case, modalities: Sequence[str], frame: Frame, fills: Mapping[str, str]
) -> tuple[Grid, NDArray[np.float16], NDArray[np.bool_]]:
    """Return where a case's brain lies and, in `frame`, its image C x y z, z-scored, and where that is brain, x y z.

    A modality that the case lacks is a copy of what `fills` says, else 0 everywhere, as in training. Raises `CaseError`
    as `Case.read` does, and `GeometryError` as `Resampler` does.
    """
    present = [modality for modality in modalities if modality in case.images]
    case.files(present)
    pieces: dict[str, tuple[NDArray[np.number], Box]] = {}
    brain: NDArray[np.bool_] | None = None
    first: Volume | None = None
    for modality, volume in case.volumes(present):
        if first is None:
            # what the others are compared with, without its memory
            first = replace(volume, data=np.broadcast_to(np.float32(0), volume.data.shape))
        volume.check_grid(first)
        signal = volume.data != 0
        own = bounding_box(signal)
        pieces[modality] = _smallest(volume.data[own]), own
        brain = signal if brain is None else np.logical_or(brain, signal, out=brain)
        del volume, signal
    assert brain is not None and first is not None, "no modalities"
    box = bounding_box(brain)
    brain = brain[box].copy()
    try:
        resampler = Resampler(frame, brain.shape, first.affine)
    except GeometryError as error:
        raise GeometryError(f"{first.path}: {error}") from None
    grid = Grid(first.data.shape, first.affine, box, brain, resampler)
    share = resampler.brain_share(torch.from_numpy(brain))
    inside = (share >= 0.5).numpy()
    image = np.zeros((len(modalities), *inside.shape), np.float16)
    for modality in present:
        whole = _placed(*pieces.pop(modality), box, brain.shape)
        if resampler.resamples:
            values = resampler.channel_to_frame(torch.from_numpy(whole.astype(np.float32)), share).numpy()[inside]
        else:  # by a view, and of the brain alone as float32
            values = resampler.reorientation(whole)[inside].astype(np.float32, copy=False)
        del whole
        image[modalities.index(modality)][inside] = z_scores(values)
    fill_absent(image, [name in present for name in modalities], stand_ins(fills, modalities))
    return grid, image, inside


@dataclass(frozen=True)
class Prediction:
    """Probabilities in the frame, `values` K x y z in the `box` of its brain, and the grid that they belong to.

    They are those of the classes in `mode` "labels", otherwise of `regions`.
    """

    grid: Grid
    values: torch.Tensor
    box: Box
    mode: str
    regions: Regions

    def labels(self, thresholds: Thresholds = NO_THRESHOLDS) -> NDArray[np.uint8]:
        """Return class indices X Y Z on the grid of the case, as `decide` says."""
        reorientation = self.grid.resampler.reorientation
        reoriented = np.zeros(reorientation.shape, np.uint8)
        first = 0
        for slab in self.grid.resampler.slabs_from_frame(self._framed()):
            labels = decide(slab[None], self.mode, self.regions, thresholds)[0]
            reoriented[first : first + len(labels)] = labels.numpy()
            first += len(labels)
        whole = np.zeros(self.grid.shape, np.uint8)
        whole[self.grid.box] = reorientation.undo(reoriented) * self.grid.brain
        return whole

    def probabilities(self) -> NDArray[np.float32]:
        """Return probabilities K X Y Z on the grid of the case, certain background where it has no signal."""
        values = self.grid.resampler.from_frame(self._framed())
        values.masked_fill_(torch.from_numpy(~self.grid.brain), 0)
        whole = np.zeros((len(values), *self.grid.shape), np.float32)
        whole[:, *self.grid.box] = values.numpy()
        if self.mode == "labels":
            whole[0][self.grid.box][~self.grid.brain] = 1
            outside = np.ones(self.grid.shape, bool)
            outside[self.grid.box] = False
            whole[0][outside] = 1
        return whole

    def _framed(self) -> torch.Tensor:
        """K x y z on the whole frame."""
        shape = self.grid.resampler.shape
        if tuple(self.values.shape[1:]) == tuple(shape):
            return self.values
        framed = self.values.new_zeros(len(self.values), *shape)
        framed[0] = self.mode == "labels"
        framed[:, *self.box] = self.values
        return framed


def _smallest(piece: NDArray[np.float32]) -> NDArray[np.number]:
    """Return a copy as int16 where that holds every value, as it does what most scanners write."""
    with np.errstate(invalid="ignore"):
        whole = piece.astype(np.int16)
    return whole if np.array_equal(whole, piece) else piece.copy()


def _placed(piece: NDArray[np.number], own: Box, box: Box, shape: Sequence[int]) -> NDArray[np.number]:
    """A piece of a volume as its part in `box`, of `shape`."""
    if own == box:
        return piece
    whole = np.zeros(shape, piece.dtype)
    whole[tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(own, box, strict=True))] = piece
    return whole
