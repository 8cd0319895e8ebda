"""Fixtures that several tests take, and the environment in which all of them run."""

import os
from pathlib import Path

# before torch is imported: tests run beside each other, and what is forked from a process with threads may hang
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

from raum_lightning.labels import EDITIONS
from tests.helpers.cases import write_brats


@pytest.fixture
def brats(tmp_path: Path) -> Path:
    """Six cases of BraTS 2020."""
    root = tmp_path / "cases"
    for number in range(1, 7):
        write_brats(root, f"BraTS20_Training_{number:03d}", EDITIONS["brats2020"], seed=number)
    return root
