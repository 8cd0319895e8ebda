"""A callback that monitors what no validation logs is refused before the run."""

import pytest
from lightning.pytorch.callbacks import Callback, EarlyStopping, LearningRateMonitor, ModelCheckpoint

from raum_lightning.errors import ConfigError
from raum_lightning.labels import REGIONS
from raum_lightning.training.option_checks import check_monitors

METRICS = ("dice", "volume")


class Own(Callback):
    """Of a user, who may log anything."""


@pytest.mark.parametrize(
    "monitor", ["val/dice", "dice_mean", "loss", "dice_wt", "val/hd95_wt", "val/dice_tumour", "val/cleaned/dice_wt"]
)
def test_what_is_not_logged_is_refused(monitor: str) -> None:
    said = f"EarlyStopping monitors {monitor}, which is not logged; give val/dice_mean, val/loss"
    with pytest.raises(ConfigError, match=said):
        check_monitors([ModelCheckpoint(), EarlyStopping(monitor)], METRICS, REGIONS)
    check_monitors([EarlyStopping(monitor), Own()], METRICS, REGIONS)


@pytest.mark.parametrize("monitor", ["val/dice_wt", "val/volume_mean", "val/loss", "train/loss", "lr-AdamW", "step"])
def test_what_is_logged_passes(monitor: str) -> None:
    check_monitors([EarlyStopping(monitor), ModelCheckpoint(monitor=monitor), LearningRateMonitor()], METRICS, REGIONS)


def test_any_region_passes_where_they_are_not_known() -> None:
    check_monitors([EarlyStopping("val/dice_tumour")], METRICS, None)
