"""Pictures of a case within a page: a sheet, and slices that are scrolled through, without a script."""

import base64
import io
from html import escape
from pathlib import Path

from raum_lightning.cases.case import Case
from raum_lightning.figures import Scan, dots, draw
from raum_lightning.figures.slices import axial_slices

SHOWN = ("flair", "t1ce")


def case_pictures(case: Case, prediction: Path) -> str:
    """Return the sheet of a case, and below it the axial slices of its first modality in a box that scrolls."""
    modalities = [modality for modality in SHOWN if modality in case.images] or list(case.images)
    scan = Scan.read(case, prediction, modalities)
    file = io.BytesIO()
    figure = draw(scan, isolate=False)
    figure.savefig(file, format="png", dpi=dots(figure))
    sheet = f'<img alt="Slices of {escape(case.id)}, reference and prediction" src="{_data(file.getvalue(), "png")}">'
    first = next(iter(scan.images))
    alone = Scan(scan.id, {first: scan.images[first]}, scan.affine, scan.reference, scan.prediction, scan.dataset)
    return sheet + scrolled(alone)


def scrolled(scan: Scan) -> str:
    """Return axial slices one below the other in a box that shows one at a time and scrolls to the next."""
    shown = []
    slices = list(axial_slices(scan))
    for number, one in enumerate(slices, 1):
        alt = f"Axial slice at z = {one.z:.0f} mm of {scan.id}"
        picture = f'<img alt="{escape(alt)}" style="aspect-ratio:{one.aspect:.3f}" src="{_data(one.content, "jpeg")}">'
        shown.append(
            f"<figure>{picture}<figcaption>z = {one.z:.0f} mm, {number} of {len(slices)}</figcaption></figure>"
        )
    what = ", ".join([*scan.images, *scan.masks, *(["disagreement"] if len(scan.masks) == 2 else [])])
    return (
        f"<details><summary>{len(slices)} axial slices to scroll through: {escape(what)}</summary>"
        f'<div class="slices" tabindex="0" role="region" aria-label="Axial slices of {escape(scan.id)}">'
        f"{''.join(shown)}</div></details>"
    )


def _data(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
