"""One case on one page: modalities, masks, classes and errors as columns, the three planes as rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raum_lightning.atomic import atomic
from raum_lightning.errors import FigureError
from raum_lightning.figures.paint import ERROR_COLOURS, ERROR_NAMES, HATCHED, class_colours, errors
from raum_lightning.figures.planes import PLANES, Plane, Point, Upright, box_around
from raum_lightning.figures.scan import Panel, Scan, panels
from raum_lightning.labels import in_classes
from raum_lightning.metrics import score

MARGIN = 10.0  # mm of black around the head, for the letters
INK, SOFT = "#e8eaed", "#b8bcc2"
MISSED = ERROR_COLOURS[HATCHED]
# pixels at most, and per inch
WIDTH, DOTS = 1600, 150.0
# inches
COLUMN, LEFT, TOP, GAP, LINE = 1.9, 0.95, 0.82, 0.1, 0.27


def draw(scan: Scan, *, point: Sequence[int] | None = None, isolate: bool = True) -> Any:
    """A matplotlib `Figure` of the slices through voxel `point` (X, Y, Z of the file), else through most tumour.

    All panels have the same scale, whatever the size of a voxel. Raises `FigureError` for a point outside the volume.
    """
    from matplotlib.figure import Figure

    at = scan.upright.voxel(_checked(scan, point) if point else scan.middle)
    content = np.logical_or.reduce([scan.brain, *(mask > 0 for mask in scan.masks.values())])
    box = box_around(scan.upright(content), scan.upright.spacing, MARGIN)
    spans = [(part.stop - part.start) * mm for part, mm in zip(box, scan.upright.spacing, strict=True)]
    columns = list(panels(scan, isolate=isolate))
    inches = COLUMN / max(spans[0], spans[1])
    heights = [spans[plane.across[1]] * inches for plane in PLANES]
    width = LEFT + len(columns) * COLUMN
    height = TOP + sum(heights) + 3 * GAP + LINE * (len(scan.masks) + 0.3)
    figure = Figure((width, height), facecolor="black")
    top = height - TOP
    for plane, tall in zip(PLANES, heights, strict=True):
        top -= tall
        wide = spans[plane.across[0]] * inches
        for number, panel in enumerate(columns):
            left = LEFT + number * COLUMN + (COLUMN - wide) / 2
            axes = figure.add_axes((left / width, top / height, wide / width, tall / height))
            _show(axes, panel, plane, at, box, spans, lettered=number == 0)
        _write(figure, 0.1, top + tall / 2, _where(scan.upright, plane, at), va="center")
        top -= GAP
    for number, panel in enumerate(columns):
        middle = LEFT + number * COLUMN + COLUMN / 2
        title = height - TOP + (0.17 if panel.modality else 0.06)
        _write(figure, middle, title, panel.title, ha="center", size=10, weight="bold")
        if panel.modality:
            _write(figure, middle, height - TOP + 0.04, f"on {panel.modality}", ha="center", size=7, color=SOFT)
    _write(figure, 0.1, height - 0.1, scan.id, va="top", size=12, weight="bold")
    _write(figure, 0.1, height - 0.33, summary(scan), va="top", size=9, color=SOFT)
    _legend(figure, scan)
    _scale_bar(figure, 50 * inches)
    return figure


def summary(scan: Scan) -> str:
    """The Dice of the regions where there are two masks, else the tumour's volume."""
    if scan.reference is not None and scan.prediction is not None:
        masks = (torch.from_numpy(mask) for mask in (scan.prediction, scan.reference))
        regions = scan.dataset.regions
        dice = score(*masks, metrics=["dice"], spacing=scan.upright.spacing, regions=regions)
        return "Dice   " + "   ".join(f"{region} {dice[f'dice_{region.lower()}']:.3f}" for region in regions)
    if not scan.masks:
        return "no mask"
    name, mask = next(iter(scan.masks.items()))
    return f"{name}: tumour {scan.millilitres(in_classes(mask, scan.dataset.tumour)):.1f} ml"


def save(figure: Any, path: Path, *, width: int = WIDTH) -> None:
    """Write a figure in the format that the ending of `path` names, at most `width` pixels wide; see `check_ending`."""
    check_ending(path)
    with atomic(path) as partial:
        # by this a command knows its own pictures from others, which it does not replace
        key = {".png": "Software", ".svg": "Creator", ".pdf": "Creator"}.get(path.suffix.lower())
        figure.savefig(partial, dpi=dots(figure, width), metadata={key: "raum view"} if key else None)


def dots(figure: Any, width: int = WIDTH) -> float:
    """Return how many dots per inch make a figure at most `width` pixels wide."""
    return min(DOTS, width / float(figure.get_figwidth()))


def check_ending(path: Path) -> None:
    """Raise `FigureError` where no picture can be written under such a name."""
    from matplotlib.backend_bases import FigureCanvasBase

    ending = path.suffix.removeprefix(".").lower()
    if ending not in FigureCanvasBase.get_supported_filetypes():
        raise FigureError(f"{path}: no picture can be written with the ending {ending!r}; take .png, .pdf or .svg")


def _checked(scan: Scan, point: Sequence[int]) -> Sequence[int]:
    shape = next(iter(scan.images.values())).shape
    if any(not 0 <= index < size for index, size in zip(point, shape, strict=True)):
        raise FigureError(f"voxel {tuple(point)} lies outside the volume of {shape} voxels, which count from 0")
    return point


def _where(upright: Upright, plane: Plane, at: Point) -> str:
    axis, index = upright.index(plane, at)
    return f"{plane.name}\n{'xyz'[plane.axis]} = {upright.position(plane, at):.4g} mm\n{axis} = {index}"


def _show(
    axes: Any,
    panel: Panel,
    plane: Plane,
    at: Point,
    box: Sequence[slice],
    spans: Sequence[float],
    *,
    lettered: bool,
) -> None:
    column, row = plane.across
    wide, tall = spans[column], spans[row]
    image = panel.paint(plane, at[plane.axis])[box[row], box[column]]
    axes.imshow(image, extent=(0, wide, tall, 0), interpolation="antialiased")
    axes.axis("off")
    if not lettered:
        return  # the letters of two panels side by side would run together
    style = {"color": SOFT, "size": 7, "transform": axes.transAxes}
    for letter, x, y, ha, va in (
        (plane.left, 0.01, 0.5, "left", "center"),
        (plane.right, 0.99, 0.5, "right", "center"),
        (plane.top, 0.5, 0.99, "center", "top"),
        (plane.bottom, 0.5, 0.01, "center", "bottom"),
    ):
        axes.text(x, y, letter, ha=ha, va=va, **style)


def _write(figure: Any, x: float, y: float, text: str, *, color: str = INK, size: float = 8, **how: Any) -> None:
    """Text at inches from the figure's lower left corner."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, color=color, size=size, **how)


def _legend(figure: Any, scan: Scan) -> None:
    colours = class_colours(scan.dataset)
    classes = {scan.dataset.classes[index]: colours[index] for index in scan.classes}
    volumes = [
        ", predicted ".join(f"{scan.millilitres(mask == index):.1f} ml" for mask in scan.masks.values())
        for index in scan.classes
    ]
    if scan.reference is not None and scan.prediction is not None:
        codes = errors(scan.reference, scan.prediction)
        named = {name: ERROR_COLOURS[code] for code, name in ERROR_NAMES.items()}
        _patches(figure, 0, named, [f"{scan.millilitres(codes == code):.1f} ml" for code in ERROR_NAMES])
    if scan.masks:
        _patches(figure, len(scan.masks) - 1, classes, volumes)


def _patches(figure: Any, line: int, colours: Mapping[str, str], volumes: Sequence[str]) -> None:
    """A line of the legend, counted from the bottom."""
    from matplotlib.patches import Patch

    labels = [f"{name}  {volume}" for name, volume in zip(colours, volumes, strict=True)]
    figure.legend(
        handles=[
            Patch(
                facecolor=colour, label=label, hatch="////" if colour == ERROR_COLOURS[HATCHED] else None, edgecolor=INK
            )
            for colour, label in zip(colours.values(), labels, strict=True)
        ],
        loc="lower left",
        bbox_to_anchor=(0, line * LINE / figure.get_figheight()),
        ncols=len(labels),
        frameon=False,
        labelcolor=INK,
        fontsize=9,
        handlelength=1,
        handleheight=1,
    )


def _scale_bar(figure: Any, length: float) -> None:
    width, height = figure.get_size_inches()
    axes = figure.add_axes(((width - length - 0.15) / width, 1 - 0.3 / height, length / width, 0.06 / height))
    axes.axis("off")
    axes.plot((0, 0, 1, 1), (1, 0, 0, 1), color=INK, linewidth=1)
    _write(figure, width - length - 0.25, height - 0.3, "5 cm", ha="right")
