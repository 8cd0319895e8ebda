"""Axial slices of a case as small pictures: modality, masks and where they disagree, side by side."""

from collections.abc import Iterator
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raum_lightning.figures.planes import AXIAL, box_around
from raum_lightning.figures.scan import Scan, panels
from raum_lightning.figures.sheet import MARGIN

MOST = 16
QUALITY = 80


class Slice(NamedTuple):
    """A picture as JPEG, where it lies in mm along z, and its width over its height in mm."""

    z: float
    content: bytes
    aspect: float


def axial_slices(scan: Scan, *, most: int = MOST) -> Iterator[Slice]:
    """Yield at most `most` slices from superior to inferior, spread evenly over what the masks hold.

    Over the whole brain where they hold nothing.
    """
    from matplotlib.image import imsave

    upright = scan.upright
    tumour = np.logical_or.reduce([mask > 0 for mask in scan.masks.values()] or [scan.brain])
    held = np.flatnonzero(upright(tumour if tumour.any() else scan.brain).any(axis=AXIAL.across))
    box = box_around(upright(scan.brain), upright.spacing, MARGIN)
    column, row = AXIAL.across
    columns = list(panels(scan, isolate=False))
    wide, tall = ((box[axis].stop - box[axis].start) * upright.spacing[axis] for axis in AXIAL.across)
    for index in np.unique(np.linspace(held[0], held[-1], most).round().astype(int)).tolist():
        row_of_panels = [panel.paint(AXIAL, index)[box[row], box[column]] for panel in columns]
        picture: NDArray[np.uint8] = np.concatenate(row_of_panels, axis=1)
        file = BytesIO()
        imsave(file, picture, format="jpg", pil_kwargs={"quality": QUALITY})
        yield Slice(upright.position(AXIAL, (0, 0, index)), file.getvalue(), len(columns) * wide / tall)
