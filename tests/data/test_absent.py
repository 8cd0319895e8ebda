"""What takes the place of an absent modality."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from raum_lightning.data.absent import fill_absent, stand_ins
from raum_lightning.data.augment import RandomModalityDropout
from raum_lightning.errors import ConfigError

MODALITIES = ("flair", "t1ce", "t2")
BOTH_WAYS = {"flair": "t2", "t2": "flair"}


def image() -> Any:
    """C X Y Z, each channel another number."""
    return np.repeat(np.array([1, 2, 3], np.float16), 8).reshape(3, 2, 2, 2)


@pytest.mark.parametrize(
    ("fills", "present", "expected"),
    [
        ({}, (True, True, True), [1, 2, 3]),
        ({}, (False, True, True), [0, 2, 3]),
        ({"flair": "t2"}, (False, True, True), [3, 2, 3]),
        ({"flair": "t2"}, (True, True, False), [1, 2, 0]),
        ({"flair": "t2"}, (False, True, False), [0, 2, 0]),
        (BOTH_WAYS, (False, True, True), [3, 2, 3]),
        (BOTH_WAYS, (True, False, False), [1, 0, 1]),
        (BOTH_WAYS, (False, True, False), [0, 2, 0]),
        ({"t2": "flair", "flair": "t1ce"}, (False, True, False), [2, 2, 0]),
    ],
)
def test_an_absent_channel_is_its_stand_in_or_0(
    fills: dict[str, str], present: tuple[bool, ...], expected: list[float]
) -> None:
    for given in (image(), torch.from_numpy(image())):
        fill_absent(given, present, stand_ins(fills, MODALITIES))
        assert_array_equal(given, np.repeat(expected, 8).reshape(3, 2, 2, 2))


def test_modality_dropout_fills_and_does_not_write_to_its_input() -> None:
    torch.manual_seed(0)
    dropout = RandomModalityDropout(probabilities=(0.5, 0, 0), stand_ins=stand_ins({"flair": "t2"}, MODALITIES))
    given, seen = torch.from_numpy(image()).float(), set()
    for _ in range(20):
        found = dropout.apply(given, dropout.get_params(3))
        seen.add(tuple(found[:, 0, 0, 0].tolist()))
    assert seen == {(1, 2, 3), (3, 2, 3)}
    assert_array_equal(given, image())


@pytest.mark.parametrize(
    ("fills", "said"),
    [
        ({"pd": "t2"}, r"data\.fill_absent=\['pd'\] must be some of flair, t1ce, t2"),
        ({"flair": "pd"}, r"data\.fill_absent fills flair with pd; it must be one of t1ce, t2"),
        ({"flair": "flair"}, r"data\.fill_absent fills flair with flair; it must be one of t1ce, t2"),
    ],
)
def test_what_cannot_take_the_place_is_named(fills: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        stand_ins(fills, MODALITIES)


@pytest.mark.parametrize("given", [[2], [None, None, 3], [None, None, -1]])
def test_a_transform_with_stand_ins_that_are_not_there_is_refused(given: list[int | None]) -> None:
    with pytest.raises(ConfigError, match=r"stand_ins=\[.*\] must be null or a channel from 0 to 2 for each of the 3"):
        RandomModalityDropout(probabilities=(0.5, 0, 0), stand_ins=given)
