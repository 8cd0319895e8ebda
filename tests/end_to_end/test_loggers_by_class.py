"""Loggers that a YAML names by their class: what they write lies in the run's folder, beside metrics.csv."""

import csv
from pathlib import Path

import pytest

from raum_lightning.cli import main
from tests.helpers import DEBUG

pytestmark = pytest.mark.slow

OWN = """
from pathlib import Path

from lightning.pytorch.loggers.logger import Logger


class Lines(Logger):
    name, version = "lines", 0

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.file = Path(save_dir) / "lines.txt"

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        with self.file.open("a") as file:
            file.writelines(f"{step} {name} {value}\\n" for name, value in metrics.items())

    def log_hyperparams(self, params: object) -> None:
        pass
"""


def fit(brats: Path, folder: Path, logger: str) -> tuple[Path, dict[str, float]]:
    """Train with a logger of this class; return the run's folder and the mean Dice by step of metrics.csv."""
    (folder / "mine.yaml").write_text(f"trainer: {{logger: [{{class_path: {logger}}}]}}")
    words = ["fit", "-c", DEBUG, "-c", "mine.yaml", "--data.root", str(brats), "--run.experiment", "e"]
    assert main([*words, "--run.id", "x", "--trainer.max_steps", "2"]) == 0
    with Path("runs/e/x/metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["val/dice_mean"]]
    scores = {row["step"]: float(row["val/dice_mean"]) for row in rows}
    assert scores
    return Path("runs/e/x"), scores


def test_a_logger_of_the_users_own(brats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mylogger.py").write_text(OWN)
    run, scores = fit(brats, tmp_path, "mylogger.Lines")
    lines = [line.split() for line in (run / "lines.txt").read_text().splitlines()]
    assert {step: float(value) for step, name, value in lines if name == "val/dice_mean"} == pytest.approx(scores)
