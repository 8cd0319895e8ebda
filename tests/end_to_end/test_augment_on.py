"""Training with augmentation on the device, which the throughput's warning recommends, on a CPU as well."""

import csv
from pathlib import Path

import pytest

from raum_lightning.cli import main
from tests.helpers import DEBUG

pytestmark = pytest.mark.slow


def losses(root: Path, where: str) -> list[float]:
    words = ["fit", "-c", DEBUG, "--data.root", str(root), "--data.augment_on", where, "--run.id", where]
    words += ["--trainer.logger", "raum_lightning.loggers.CSVLogger", "--trainer.enable_progress_bar", "false"]
    assert main([*words, "--trainer.limit_val_batches", "0", "--trainer.callbacks", "[]"]) == 0
    rows = csv.DictReader(Path("runs/debug", where, "metrics.csv").read_text().splitlines())
    return [float(row["train/loss"]) for row in rows if row["train/loss"]]


def test_the_losses_are_those_with_augmentation_in_the_workers(brats: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same seeds give the same patches, but for float16, in which workers hand them over."""
    monkeypatch.chdir(brats.parent)
    workers, device = losses(brats, "workers"), losses(brats, "device")
    assert len(device) == 4 and len(set(device)) == 4
    assert device == pytest.approx(workers, rel=1e-3)
