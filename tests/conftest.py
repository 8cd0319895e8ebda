"""Fixtures that several tests take, and the environment in which all of them run."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

# before torch is imported: tests run beside each other, and what is forked from a process with threads may hang
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from hypothesis import settings

import tests.helpers.float32  # noqa: F401
from tests.helpers.cases import write_brats_cases

# no test depends on how fast a machine is, or on chance
settings.register_profile("raum", deadline=None, derandomize=True)
settings.load_profile("raum")

# fixtures that train a network
TRAINING = {"trained", "checkpoint", "whole", "work"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts processes that train together, and what stands on a network trained for it."""
    for item in items:
        if "distributed" in item.path.parts:
            item.add_marker("distributed")
        if TRAINING.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def no_wandb_process_from_before() -> Iterator[None]:
    """End W&B's own process with the test that started it: another run of the same id would not be written by it."""
    yield
    if "WANDB_SERVICE" in os.environ and "wandb" in sys.modules:
        sys.modules["wandb"].teardown()
        os.environ.pop("WANDB_SERVICE", None)


@pytest.fixture
def brats(tmp_path: Path) -> Path:
    """Six cases of BraTS 2020."""
    return write_brats_cases(tmp_path / "cases", 6)
