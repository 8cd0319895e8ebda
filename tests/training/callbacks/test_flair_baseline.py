"""The threshold on FLAIR, by numbers that can be counted by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from raum_lightning.labels import ED, ET, NCR, REGIONS
from raum_lightning.training.callbacks.flair_baseline import FlairThreshold, threshold_dice


def case(ed: float, core: float) -> Any:
    """40 voxels of brain at 0.5, 20 of edema, 10 of NCR and 10 of ET, and 20 outside the brain."""
    values = np.repeat([0.5, ed, core, core, 0], [40, 20, 10, 10, 20]).astype(np.float16)
    label = np.repeat([0, ED, NCR, ET, 0], [40, 20, 10, 10, 20]).astype(np.uint8)
    return SimpleNamespace(image=values.reshape(1, 10, 10, 1), label=label.reshape(10, 10, 1))


def at(threshold: float) -> int:
    return round((threshold + 3) / 0.1)


@pytest.mark.parametrize(
    ("threshold", "dice"),
    [
        # 2 * both / (brighter + region): brain 80, WT 40, TC 20, ET 10
        (0.2, (80 / 120, 40 / 100, 20 / 90)),
        (1.2, (1, 40 / 60, 20 / 50)),
        (2.2, (40 / 60, 1, 20 / 30)),
        (3.2, (0, 0, 0)),
    ],
)
def test_dice_of_a_threshold(threshold: float, dice: tuple[float, ...]) -> None:
    assert threshold_dice(case(ed=2, core=3), 0)[:, at(threshold)] == pytest.approx(dice)


def test_the_threshold_is_that_of_the_training_cases() -> None:
    # of the training case WT is all above 0.5 up to 2, and TC and ET are best above 2; in the tested case the edema is
    # as bright as healthy brain, so that what lies above both is the core
    prepared = {"a": case(ed=2, core=3), "b": case(ed=0.5, core=3)}
    data = SimpleNamespace(
        modalities=("flair",),
        split=SimpleNamespace(train=["a"]),
        prepared=prepared,
        dataset=SimpleNamespace(regions=REGIONS),
    )
    scores: dict[str, dict[str, float]] = {"b": {}}
    trainer: Any = SimpleNamespace(is_global_zero=True, datamodule=data)
    FlairThreshold().on_test_end(trainer, SimpleNamespace(case_scores=scores))
    expected = [40 / 60, 1, 20 / 30]
    assert list(scores["b"].values()) == pytest.approx([*expected, sum(expected) / 3])
    data.split.train = []  # as where a data set is for testing alone
    alone: dict[str, dict[str, float]] = {"b": {}}
    FlairThreshold().on_test_end(trainer, SimpleNamespace(case_scores=alone))
    assert alone == {"b": {}}
    assert list(scores["b"]) == ["flair/dice_wt", "flair/dice_tc", "flair/dice_et", "flair/dice_mean"]
