"""Grey values and colours: how a slice and the masks upon it become a picture."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raum_lightning.datasets import BACKGROUND, IGNORED, DataSet

# Apart in lightness as well as in hue: any two of a list differ by 25 or more in CIELAB for normal sight and for the
# three kinds of colour blindness (tests/figures/test_colours.py). Other classes take the cycle in turn.
KNOWN_COLOURS = {"NCR": "#c92323", "ED": "#0ac7c7", "ET": "#fff943", "RC": "#6936af"}
CYCLE = ("#fff943", "#0ac7c7", "#c92323", "#6936af", "#e7a57f", "#a49bf6", "#81375b", "#c0fdd8")

AGREED, FALSE_POSITIVE, FALSE_NEGATIVE, CONFUSED = range(1, 5)
ERROR_COLOURS = {AGREED: "#7d8590", FALSE_POSITIVE: "#ea870e", FALSE_NEGATIVE: "#0534f4", CONFUSED: "#ce65dc"}
# what is missed is dark: it is hatched as well
HATCHED = FALSE_NEGATIVE
HATCH_COLOUR, HATCH_PIXELS = "#ffffff", 4
ERROR_NAMES = {
    AGREED: "agree",
    FALSE_POSITIVE: "false positive",
    FALSE_NEGATIVE: "false negative",
    CONFUSED: "other class",
}


def class_colours(dataset: DataSet) -> dict[int, str]:
    """Return the colour of each class by its index: the data set's own, the known one of its name, or the next free."""
    named = KNOWN_COLOURS | dict(dataset.colours)
    taken = {named[name] for name in dataset.classes if name in named}
    free = cycle([colour for colour in CYCLE if colour not in taken] or CYCLE)
    return {index: named.get(name) or next(free) for index, name in enumerate(dataset.classes) if index != BACKGROUND}


def grey(volume: NDArray[Any]) -> NDArray[np.uint8]:
    """Return grey values 0 to 255 of any array: black outside the brain (0), and the window holds 99 % of the rest."""
    inside = volume != 0
    low, high = np.percentile(volume[inside], (0.5, 99.5)) if inside.any() else (0.0, 0.0)
    scaled = (volume.astype(np.float32) - low) * (255 / max(high - low, 1e-6))
    shown: NDArray[np.uint8] = (scaled.clip(0, 255) * inside).astype(np.uint8)
    return shown


def errors(reference: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Where two masks of class indices agree on a class and where not: 0 where both are background.

    It is 0 also where the reference is `IGNORED`, which counts neither for a prediction nor against it.
    `AGREED`: the same class. `FALSE_POSITIVE`: a class where the reference has none. `FALSE_NEGATIVE`: none where the
    reference has one. `CONFUSED`: two different classes.
    """
    in_reference, in_prediction = reference != BACKGROUND, prediction != BACKGROUND
    conditions = [
        (~in_reference & ~in_prediction) | (reference == IGNORED),
        reference == prediction,
        ~in_reference,
        ~in_prediction,
    ]
    codes: NDArray[np.uint8] = np.select(
        conditions, [np.uint8(code) for code in (0, AGREED, FALSE_POSITIVE, FALSE_NEGATIVE)], np.uint8(CONFUSED)
    )
    return codes


def overlay(
    background: NDArray[np.uint8],
    codes: NDArray[np.uint8],
    colours: Mapping[int, str],
    *,
    opacity: float = 0.5,
    hatched: int | None = None,
) -> NDArray[np.uint8]:
    """Return grey values with each code above 0 in its colour (`#rrggbb`); 2-D arrays in, RGB in a third axis out.

    The pixels along an outline are opaque, those within let the image through. The code `hatched` has diagonal lines.
    """
    table = np.zeros((max(colours) + 1, 3), np.float32)
    for code, colour in colours.items():
        table[code] = rgb(colour)
    edge = outline(codes)
    alpha = np.where(edge, 1.0, opacity)[..., None] * (codes > 0)[..., None]
    painted: NDArray[np.uint8] = (background[..., None] * (1 - alpha) + table[codes] * alpha).round().astype(np.uint8)
    if hatched is not None:
        row, column = np.indices(codes.shape)
        painted[(codes == hatched) & ~edge & ((row + column) % HATCH_PIXELS == 0)] = rgb(HATCH_COLOUR)
    return painted


def outline(codes: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels of a 2-D array that have another code above, below, left or right of them."""
    padded = np.pad(codes, 1)
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    edge: NDArray[np.bool_] = (codes > 0) & np.logical_or.reduce([codes != other for other in neighbours])
    return edge


def rgb(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` as three numbers 0 to 255."""
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
