"""Cases and segmentations as pictures in a notebook: `raum_lightning.show(...)` as the last line of a cell."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from raum_lightning.datasets import IGNORED
from raum_lightning.errors import CaseError
from raum_lightning.figures import Scan, dots, draw, save
from raum_lightning.inference.segmentation import Segmentation
from raum_lightning.inference.sources import Source, find

WIDTH = 1000


@dataclass(frozen=True)
class Picture:
    """A case as `raum view` draws it; notebooks display it where it is the value of a cell.

    Args:
        id: The case.
        figure: A matplotlib `Figure`, to change before it is displayed.
        width: Pixels at most.
    """

    id: str
    figure: Any
    width: int = WIDTH

    def __repr__(self) -> str:
        return f"<Picture of {self.id}>"

    @cached_property
    def png(self) -> bytes:
        """The picture as the content of a PNG file."""
        content = BytesIO()
        self.figure.savefig(content, format="png", dpi=dots(self.figure, self.width))
        return content.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png

    def save(self, path: Path | str) -> None:
        """Write the picture in the format that the ending names: .png, .pdf or .svg."""
        save(self.figure, Path(path), width=self.width)


def show(
    source: Source | Segmentation,
    *,
    prediction: Path | str | None = None,
    dataset: str | None = None,
    modalities: Sequence[str] | None = None,
    point: Sequence[int] | None = None,
    isolate: bool = False,
    width: int = WIDTH,
) -> Picture:
    """Return three planes of a case: its modalities, its mask and a prediction upon them, and where the two differ.

    Args:
        source: A segmentation, or a case: its folder, or the file of each modality.
        prediction: The file of a mask in the label values of the case's data set; a segmentation brings its own.
        dataset: Whose file names and label values the case has, where its names do not say it.
        modalities: Those to show; all where not given.
        point: Voxel X, Y, Z of the files through which the planes go; through most of the tumour where not given.
        isolate: Show each class in a column of its own, too.
        width: Pixels at most.

    Raises:
        CaseError: There is no such case, or a file of it cannot be read.
        FigureError: The point lies outside the volume.
    """
    if isinstance(source, Segmentation):
        scan = _scan_of(source, modalities)
    else:
        scan = Scan.read(find(source, dataset), Path(prediction) if prediction else None, modalities)
    return Picture(scan.id, draw(scan, point=point, isolate=isolate), width)


def _scan_of(found: Segmentation, modalities: Sequence[str] | None) -> Scan:
    """Return a case with its reference, where it has one, and what the network says, in the segmentation's classes."""
    scan = Scan.read(found.case, modalities=modalities or found.card.modalities)
    own, shown, reference = scan.dataset.classes, found.data_set.classes, scan.reference
    if reference is not None and own != shown[: len(own)]:
        if lacking := [name for name in own if name not in shown]:
            raise CaseError(
                f"case {scan.id}: its mask has {', '.join(lacking)} ({scan.dataset.name}), which {found.data_set.name} "
                "lacks; segment it with dataset=None"
            )
        table = np.full(256, IGNORED, np.uint8)
        table[: len(own)] = [shown.index(name) for name in own]
        reference = table[reference]
    predicted = found.card.translate(found.labels, found.data_set)
    return replace(scan, reference=reference, prediction=predicted, dataset=found.data_set)
