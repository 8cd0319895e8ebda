"""Whether what was trained fits the masks that score it."""

from dataclasses import replace

import pytest

from raum_lightning.datasets import load
from raum_lightning.errors import ConfigError
from raum_lightning.training.data_fit import check_classes


def test_classes_have_their_places() -> None:
    adult, after_treatment = load("brats2020"), load("brats2024")
    check_classes(adult.classes, after_treatment)
    check_classes(after_treatment.classes, adult)
    turned = replace(adult, name="own", labels={1: "ET", 2: "ED", 3: "NCR"})
    with pytest.raises(ConfigError, match=r"on the classes NCR, ED, ET, those of own are ET, ED, NCR: .*evaluate"):
        check_classes(adult.classes, turned)
