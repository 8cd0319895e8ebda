"""What a network says of a case, on the grid of its files: class indices, probabilities, volumes."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from raum_lightning.cases.case import Case, write_mask
from raum_lightning.cases.nifti import write_like
from raum_lightning.datasets import DataSet
from raum_lightning.inference.card import ModelCard
from raum_lightning.inference.framed import Prediction
from raum_lightning.inference.temperature import temper
from raum_lightning.labels import in_classes
from raum_lightning.postprocess.probabilities import Probabilities


@dataclass(frozen=True)
class Segmentation:
    """What a network says of a case, on the grid of its files.

    `labels` are class indices X Y Z, those of `card.classes`. Files get the geometry and header of the case's first
    modality, and masks the label values of `data_set`.
    """

    case: Case
    labels: NDArray[np.uint8]
    data_set: DataSet
    card: ModelCard
    prediction: Prediction

    def __repr__(self) -> str:
        volumes = ", ".join(f"{name} {volume:.1f} ml" for name, volume in self.volumes.items())
        return f"<Segmentation of {self.case.id}: {volumes}, as {self.data_set.name}>"

    @cached_property
    def probabilities(self) -> NDArray[np.float32]:
        """K X Y Z in [0, 1]: of the classes with background, or of the regions; made when it is asked for."""
        return temper(self.prediction.probabilities(), self.card.mode, self.card.temperature)

    def save(self, path: Path | str, remark: str = "") -> None:
        """Write the mask, whole or not at all; the header's description notes a `remark` too."""
        case = replace(self.case, dataset=self.data_set)
        write_mask(Path(path), self.card.translate(self.labels, self.data_set), case, self._first, remark)

    def save_probabilities(self, path: Path | str) -> None:
        """Write X Y Z K, float32; the header's description names the channels."""
        self.save_map(path, np.moveaxis(self.probabilities, 0, -1), f"probabilities: {' '.join(self.card.channels)}")

    def save_raw_probabilities(self, path: Path, key: str = "") -> None:
        """Write those of the network, before the temperature, for `raum postprocess`; see `Probabilities`."""
        card, grid = self.card, self.prediction.grid
        whole = self.prediction.probabilities()
        Probabilities.of(whole, grid.box, card.channels, card.mode, key).save(path)

    def save_map(self, path: Path | str, values: NDArray[np.float32], description: str) -> None:
        """Write numbers X Y Z or X Y Z K on the grid of the case."""
        write_like(Path(path), values, self.case.images[self._first], f"raum {description}")

    @property
    def missing(self) -> tuple[str, ...]:
        """Modalities that the case lacks and the network has done without."""
        return tuple(name for name in self.card.modalities if name not in self.case.images)

    @property
    def _first(self) -> str:
        return next(name for name in self.card.modalities if name in self.case.images)

    @property
    def volumes(self) -> dict[str, float]:
        """Of each region, in ml."""
        regions = self.card.region_indices.items()
        sizes = {name: np.count_nonzero(in_classes(self.labels, classes)) for name, classes in regions}
        return {name: float(size) * self.prediction.grid.voxel_ml for name, size in sizes.items()}
