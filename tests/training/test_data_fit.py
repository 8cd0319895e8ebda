"""Whether what was trained fits the masks that score it."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from raum_lightning.datasets import load
from raum_lightning.errors import ConfigError
from raum_lightning.models import UNETRV2
from raum_lightning.training.data_fit import check_classes, check_inputs
from raum_lightning.training.option_checks import check_monitor


@pytest.mark.parametrize("position", ["rope", "both"])
def test_patches_of_another_size_need_free_positions(position: str) -> None:
    network = UNETRV2(img_size=32, in_channels=1, position=position, embed_dim=24, num_heads=2, feature_size=4)
    data = SimpleNamespace(modalities=("flair",), roi_size=(48, 48, 32))
    if position == "rope":
        assert check_inputs(network, data) == 1
    else:
        with pytest.raises(ConfigError, match=r"img_size=.* but data.roi_size"):
            check_inputs(network, data)


def test_classes_have_their_places() -> None:
    adult, after_treatment = load("brats2020"), load("brats2024")
    check_classes(adult.classes, after_treatment)
    check_classes(after_treatment.classes, adult)
    turned = replace(adult, name="own", labels={1: "ET", 2: "ED", 3: "NCR"})
    with pytest.raises(ConfigError, match=r"on the classes NCR, ED, ET, those of own are ET, ED, NCR: .*evaluate"):
        check_classes(adult.classes, turned)


REGIONS = {"whole_tumor": (1, 2, 3), "Tumor_Core": (2, 3), "ET": (3,)}


@pytest.mark.parametrize("monitor", ["dice_whole_tumor", "hd95_tumor_core", "dice_et", "dice_mean", "loss"])
def test_a_region_of_two_words_can_be_monitored(monitor: str) -> None:
    check_monitor(monitor, ["dice", "hd95"], REGIONS)
    check_monitor(monitor, ["dice", "hd95"])


@pytest.mark.parametrize(
    "monitor", ["dice_tumor", "dice_whole", "nsd_05_whole_tumor", "volume_et", "dice", "whole_tumor"]
)
def test_what_is_not_logged_cannot_be_monitored(monitor: str) -> None:
    with pytest.raises(ConfigError, match=f"module.monitor={monitor} is no score of module.metrics"):
        check_monitor(monitor, ["dice", "hd95", "volume"], REGIONS)
