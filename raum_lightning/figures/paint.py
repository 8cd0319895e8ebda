"""Grey values and colours: how a slice and the masks upon it become a picture."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raum_lightning.labels import BACKGROUND, ED, ET, NCR, RC

# apart in brightness as well as in hue, so that they differ to the colour-blind
CLASS_COLOURS = {NCR: "#f0417f", ED: "#23b5a5", ET: "#ffd84d", RC: "#8f7bff"}

AGREED, FALSE_POSITIVE, FALSE_NEGATIVE, CONFUSED = range(1, 5)
ERROR_COLOURS = {AGREED: "#7d8590", FALSE_POSITIVE: "#ff7a2f", FALSE_NEGATIVE: "#3d9bff", CONFUSED: "#c77dff"}
ERROR_NAMES = {
    AGREED: "agree",
    FALSE_POSITIVE: "false positive",
    FALSE_NEGATIVE: "false negative",
    CONFUSED: "other class",
}


def grey(volume: NDArray[Any]) -> NDArray[np.uint8]:
    """Grey values 0 to 255 of any array: black outside the brain (0), and the window holds 99 % of the rest."""
    inside = volume != 0
    low, high = np.percentile(volume[inside], (0.5, 99.5))
    scaled = (volume.astype(np.float32) - low) * (255 / max(high - low, 1e-6))
    shown: NDArray[np.uint8] = (scaled.clip(0, 255) * inside).astype(np.uint8)
    return shown


def errors(reference: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Where two masks of class indices agree on a class and where not: 0 where both are background.

    `AGREED`: the same class. `FALSE_POSITIVE`: a class where the reference has none. `FALSE_NEGATIVE`: none where the
    reference has one. `CONFUSED`: two different classes.
    """
    in_reference, in_prediction = reference != BACKGROUND, prediction != BACKGROUND
    conditions = [
        ~in_reference & ~in_prediction,
        reference == prediction,
        ~in_reference,
        ~in_prediction,
    ]
    codes: NDArray[np.uint8] = np.select(
        conditions, [np.uint8(code) for code in (0, AGREED, FALSE_POSITIVE, FALSE_NEGATIVE)], np.uint8(CONFUSED)
    )
    return codes


def overlay(
    background: NDArray[np.uint8], codes: NDArray[np.uint8], colours: Mapping[int, str], *, opacity: float = 0.5
) -> NDArray[np.uint8]:
    """Each code above 0 in its colour (`#rrggbb`) on grey values, both of any one 2-D shape; RGB in a third axis.

    The voxels along an outline are opaque, those within let the image through.
    """
    table = np.zeros((max(colours) + 1, 3), np.float32)
    for code, colour in colours.items():
        table[code] = rgb(colour)
    alpha = np.where(outline(codes), 1.0, opacity)[..., None] * (codes > 0)[..., None]
    painted: NDArray[np.uint8] = (background[..., None] * (1 - alpha) + table[codes] * alpha).round().astype(np.uint8)
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
