"""Colours that are told apart by everyone: simulated colour blindness, and differences in CIELAB."""

from itertools import combinations

import numpy as np
import pytest

from raum_lightning.datasets import load, parse, presets
from raum_lightning.figures.paint import (
    AGREED,
    CYCLE,
    ERROR_COLOURS,
    FALSE_NEGATIVE,
    FALSE_POSITIVE,
    KNOWN_COLOURS,
    class_colours,
    overlay,
    rgb,
)

# complete blindness to one kind of cone, on linear RGB: Machado, Oliveira and Fernandes, IEEE TVCG 2009, severity 1
SIGHT = {
    "normal": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]]
    ),
}
# of sRGB with white D65
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])
WHITE = XYZ.sum(axis=1)


def lab(colour: str, sight: str) -> np.ndarray:
    """CIELAB of what somebody with such sight sees."""
    value = np.array(rgb(colour)) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    scaled = XYZ @ np.clip(SIGHT[sight] @ linear, 0, 1) / WHITE
    x, y, z = np.where(scaled > 216 / 24389, np.cbrt(scaled), (24389 / 27 * scaled + 16) / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def nearest(colours: set[str], sight: str) -> float:
    return min(float(np.linalg.norm(lab(one, sight) - lab(other, sight))) for one, other in combinations(colours, 2))


def test_the_measure_finds_what_was_wrong() -> None:
    """Pink and teal, once NCR and ED, and two blues of errors; 2.3 is just noticeable."""
    assert nearest({"#f0417f", "#23b5a5"}, "normal") > 100 and nearest({"#f0417f", "#23b5a5"}, "deuteranopia") < 20
    assert nearest({"#3d9bff", "#c77dff"}, "protanopia") < 6
    assert lab("#ffffff", "normal") == pytest.approx([100, 0, 0], abs=0.01)


@pytest.mark.parametrize("sight", SIGHT)
def test_classes_and_errors_are_told_apart(sight: str) -> None:
    assert nearest(set(KNOWN_COLOURS.values()), sight) > 50
    assert nearest(set(CYCLE), sight) > 25
    assert nearest(set(ERROR_COLOURS.values()), sight) > 25
    for colour in KNOWN_COLOURS.values():  # a class by itself: where both agree, and what one of them lacks
        assert nearest({colour, ERROR_COLOURS[FALSE_POSITIVE], ERROR_COLOURS[FALSE_NEGATIVE]}, sight) > 25


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("name", [name for name, known in presets().items() if known.num_classes > 2])
def test_the_classes_of_every_data_set_are_told_apart(name: str, sight: str) -> None:
    colours = class_colours(load(name))
    assert len(set(colours.values())) == len(colours) and nearest(set(colours.values()), sight) > 25


def test_a_data_set_may_choose_its_colours() -> None:
    about = {"name": "x", "images": {"a": "{case}"}, "labels": {1: "a", 2: "ET", 3: "b"}, "colours": {"ET": "#123456"}}
    assert class_colours(parse(about, "x")) == {1: CYCLE[0], 2: "#123456", 3: CYCLE[1]}


def test_more_classes_than_colours_begin_again() -> None:
    about = {"name": "x", "images": {"a": "{case}"}, "labels": {n: f"c{n}" for n in range(1, 11)}}
    assert class_colours(parse(about, "x"))[9] == CYCLE[0]


def test_what_is_missed_is_hatched_within_its_outline() -> None:
    codes = np.zeros((12, 12), np.uint8)
    codes[1:11, 1:11] = FALSE_NEGATIVE
    painted = overlay(np.zeros((12, 12), np.uint8), codes, ERROR_COLOURS, hatched=FALSE_NEGATIVE)
    white = (painted == 255).all(axis=2)
    assert white[4, 4] and white[3, 5] and not white[4, 5] and not white[1].any() and white.sum() == 16
    codes[codes > 0] = AGREED
    assert not (overlay(np.zeros((12, 12), np.uint8), codes, ERROR_COLOURS, hatched=FALSE_NEGATIVE) == 255).any()
