"""One case on one page: modalities, masks, classes and errors as columns, the three planes as rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from raum_lightning.cases import Case
from raum_lightning.figures.paint import CLASS_COLOURS, ERROR_COLOURS, ERROR_NAMES, errors, grey, overlay
from raum_lightning.figures.planes import PLANES, Plane, Point, Turn, bounding_box, centre, most
from raum_lightning.labels import BACKGROUND, CLASSES, ED, ET, MODALITIES, NCR, REGIONS
from raum_lightning.metrics import score

Labels = NDArray[np.uint8]

TITLES = {"flair": "FLAIR", "t1": "T1", "t1ce": "T1ce", "t2": "T2"}
# what a class is best judged on
BEST_ON = {ED: "flair", ET: "t1ce", NCR: "t1ce"}
MARGIN = 10.0  # mm of black around the head, for the letters

# inches
COLUMN, LEFT, TOP, GAP, LINE = 1.9, 0.95, 0.82, 0.1, 0.27


class FigureError(ValueError):
    """A picture that cannot be drawn or written as asked."""


@dataclass(frozen=True)
class Scan:
    """What is drawn: modalities X Y Z by name, their affine (voxels to mm), and masks of class indices X Y Z."""

    id: str
    images: Mapping[str, NDArray[np.float32]]
    affine: NDArray[np.float64]
    reference: Labels | None = None
    prediction: Labels | None = None

    @classmethod
    def read(cls, case: Case, prediction: Path | None = None, modalities: Sequence[str] = MODALITIES) -> "Scan":
        """A case with those of `modalities` it has, and a prediction in the label values of its edition.

        Raises `CaseError` for files that cannot be read or do not lie on one grid.
        """
        names = [modality for modality in modalities if modality in case.images]
        image, reference, affine = case.read_labelled(names)
        predicted = replace(case, label=prediction).read_labelled(names[:1])[1] if prediction else None
        return cls(case.id, dict(zip(names, image, strict=True)), affine, reference, predicted)

    @cached_property
    def turn(self) -> Turn:
        """How its arrays are turned upright."""
        return Turn.of(self.affine, next(iter(self.images.values())).shape)

    @property
    def brain(self) -> NDArray[np.bool_]:
        """Where any modality is not 0, X Y Z."""
        inside: NDArray[np.bool_] = np.logical_or.reduce([image != 0 for image in self.images.values()])
        return inside

    @property
    def masks(self) -> dict[str, Labels]:
        """Reference and prediction, as far as there are."""
        named = {"reference": self.reference, "prediction": self.prediction}
        return {name: mask for name, mask in named.items() if mask is not None}

    @property
    def middle(self) -> Point:
        """Voxel X, Y, Z where the slices hold most tumour, of the reference if it has any, or the brain's centre."""
        for mask in self.masks.values():
            if mask.any():
                return most(mask)
        return centre(self.brain)

    @property
    def classes(self) -> list[int]:
        """NCR, ED and ET, and the resection cavity where a mask has it."""
        seen = {int(index) for mask in self.masks.values() for index in np.unique(mask)}
        return sorted({NCR, ED, ET} | seen - {BACKGROUND})

    def millilitres(self, mask: NDArray[np.bool_]) -> float:
        """The volume of a mask X Y Z."""
        return float(np.count_nonzero(mask) * np.abs(np.linalg.det(self.affine[:3, :3])) / 1000)


class Panel(NamedTuple):
    """A column of the figure: a turned grey volume, and codes upon it in `colours`."""

    title: str
    background: NDArray[np.uint8]
    codes: Labels
    colours: Mapping[int, str]

    def paint(self, plane: Plane, index: int) -> NDArray[np.uint8]:
        """One slice as RGB."""
        return overlay(plane.cut(self.background, index), plane.cut(self.codes, index), self.colours)


def panels(scan: Scan, *, isolate: bool = True) -> Iterator[Panel]:
    """The columns: each modality, each mask, where they disagree, and with `isolate` each class by itself.

    With both masks a class is shown in its colour where they agree on it, and in the colours of errors where not.
    """
    greys = {modality: grey(scan.turn(image)) for modality, image in scan.images.items()}
    masks = {name: scan.turn(mask) for name, mask in scan.masks.items()}
    nothing = np.zeros(scan.turn.shape, np.uint8)
    for modality, background in greys.items():
        yield Panel(TITLES[modality], background, nothing, CLASS_COLOURS)

    def on(index: int) -> NDArray[np.uint8]:
        return greys.get(BEST_ON.get(index, "t1ce"), next(iter(greys.values())))

    for name, mask in masks.items():
        yield Panel(name, on(ED), mask, CLASS_COLOURS)
    if len(masks) == 2:
        yield Panel("disagreement", on(ED) // 2, errors(*masks.values()), ERROR_COLOURS)
    for index in scan.classes if isolate and masks else ():
        alone = [np.where(mask == index, mask, 0) for mask in masks.values()]
        if len(alone) == 1:
            yield Panel(CLASSES[index], on(index), alone[0], CLASS_COLOURS)
        else:
            colours = ERROR_COLOURS | {1: CLASS_COLOURS[index]}
            yield Panel(CLASSES[index], on(index), errors(alone[0], alone[1]), colours)


def draw(scan: Scan, *, point: Sequence[int] | None = None, isolate: bool = True) -> Any:
    """A matplotlib `Figure` of the slices through voxel `point` (X, Y, Z of the file), else through most tumour.

    All panels have the same scale, whatever the size of a voxel. Raises `FigureError` for a point outside the volume.
    """
    from matplotlib.figure import Figure

    at = scan.turn.voxel(_checked(scan, point) if point else scan.middle)
    content = np.logical_or.reduce([scan.brain, *(mask > 0 for mask in scan.masks.values())])
    box = bounding_box(scan.turn(content), scan.turn.spacing, MARGIN)
    spans = [(part.stop - part.start) * mm for part, mm in zip(box, scan.turn.spacing, strict=True)]
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
            _show(axes, panel, plane, at, box, spans)
        _write(figure, 0.1, top + tall / 2, _where(scan.turn, plane, at), va="center")
        top -= GAP
    for number, panel in enumerate(columns):
        middle = LEFT + number * COLUMN + COLUMN / 2
        _write(figure, middle, height - TOP + 0.06, panel.title, ha="center", size=10, weight="bold")
    _write(figure, 0.1, height - 0.1, scan.id, va="top", size=12, weight="bold")
    _write(figure, 0.1, height - 0.33, summary(scan), va="top", size=9, color="#b8bcc2")
    _legend(figure, scan)
    _scale_bar(figure, 50 * inches)
    return figure


def summary(scan: Scan) -> str:
    """The Dice of the regions where there are two masks, else what is drawn."""
    if scan.reference is not None and scan.prediction is not None:
        masks = (torch.from_numpy(mask) for mask in (scan.prediction, scan.reference))
        dice = score(*masks, metrics=["dice"], spacing=scan.turn.spacing)
        return "Dice   " + "   ".join(f"{region} {dice[f'dice_{region.lower()}']:.3f}" for region in REGIONS)
    tumour = "   ".join(f"tumour {scan.millilitres(mask > 0):.1f} ml, {name}" for name, mask in scan.masks.items())
    return tumour or "no mask"


def save(figure: Any, path: Path) -> None:
    """Writes a figure in the format that the ending of `path` names; raises `FigureError` for one there is not."""
    ending = path.suffix.removeprefix(".").lower()
    if ending not in figure.canvas.get_supported_filetypes():
        raise FigureError(f"{path}: no picture can be written with the ending {ending!r}; take .png, .pdf or .svg")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _checked(scan: Scan, point: Sequence[int]) -> Sequence[int]:
    shape = next(iter(scan.images.values())).shape
    if any(not 0 <= index < size for index, size in zip(point, shape, strict=True)):
        raise FigureError(f"voxel {tuple(point)} lies outside the volume of {shape} voxels, which count from 0")
    return point


def _where(turn: Turn, plane: Plane, at: Point) -> str:
    axis, index = turn.index(plane, at)
    return f"{plane.name}\n{'xyz'[plane.axis]} = {turn.position(plane, at):.4g} mm\n{axis} = {index}"


def _show(axes: Any, panel: Panel, plane: Plane, at: Point, box: Sequence[slice], spans: Sequence[float]) -> None:
    column, row = plane.across
    wide, tall = spans[column], spans[row]
    image = panel.paint(plane, at[plane.axis])[box[row], box[column]]
    axes.imshow(image, extent=(0, wide, tall, 0), interpolation="antialiased")
    axes.axis("off")
    style = {"color": "#b8bcc2", "size": 7, "transform": axes.transAxes}
    for letter, x, y, ha, va in (
        (plane.left, 0.01, 0.5, "left", "center"),
        (plane.right, 0.99, 0.5, "right", "center"),
        (plane.top, 0.5, 0.99, "center", "top"),
        (plane.bottom, 0.5, 0.01, "center", "bottom"),
    ):
        axes.text(x, y, letter, ha=ha, va=va, **style)


def _write(figure: Any, x: float, y: float, text: str, *, color: str = "#e8eaed", size: float = 8, **how: Any) -> None:
    """Text at inches from the figure's lower left corner."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, color=color, size=size, **how)


def _legend(figure: Any, scan: Scan) -> None:
    classes = {CLASSES[index]: CLASS_COLOURS[index] for index in scan.classes}
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
        handles=[Patch(color=colour, label=label) for colour, label in zip(colours.values(), labels, strict=True)],
        loc="lower left",
        bbox_to_anchor=(0, line * LINE / figure.get_figheight()),
        ncols=len(labels),
        frameon=False,
        labelcolor="#e8eaed",
        fontsize=9,
        handlelength=1,
        handleheight=1,
    )


def _scale_bar(figure: Any, length: float) -> None:
    width, height = figure.get_size_inches()
    axes = figure.add_axes(((width - length - 0.15) / width, 1 - 0.3 / height, length / width, 0.06 / height))
    axes.axis("off")
    axes.plot((0, 0, 1, 1), (1, 0, 0, 1), color="#e8eaed", linewidth=1)
    _write(figure, width - length - 0.25, height - 0.3, "5 cm", ha="right")
