"""Where a cross-validation lies on disk, `<root>/<experiment>/cv-<id>/`, and what its files are called."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raum_lightning.errors import RunError
from raum_lightning.json_files import read_json
from raum_lightning.runs.folder import RunFolder


@dataclass(frozen=True)
class StudyFolder:
    """The files of a cross-validation.

    config.yaml            the whole configuration, from which every fold trains
    splits.json            the cases of each fold
    study.json             the command, and fingerprints of the cases
    training.json          when each fold trained, and its peak memory
    fold<k>.log            what a fold printed that trained beside others
    array.sbatch collect.sbatch  what --slurm has submitted
    predictions/ cleaned/  each case by the fold that has not seen it, as it is and after post.yaml
    probabilities/         of each case, where --probabilities was given
    calibration/           voxels of each case with their probabilities
    post.yaml              the post-processing
    results.json .csv .md  scores, by case and together
    pictures/              the worst cases
    report.html            the page that `raum report` writes
    ensemble.safetensors   all folds as one file for `raum segment`; its README beside it as ensemble.md

    Its folds are runs of their own beside it, `cv-<id>-fold<k>`.

    Args:
        path: The folder.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The configuration of all folds."""
        return self.path / "config.yaml"

    @property
    def splits(self) -> Path:
        """The cases of each fold."""
        return self.path / "splits.json"

    @property
    def study(self) -> Path:
        """What decides the results besides the configuration."""
        return self.path / "study.json"

    @property
    def begun(self) -> dict[str, Any]:
        """The content of study.json; raises `RunError` where it is damaged."""
        words, hashes = tuple[str, ...], Mapping[str, str]
        found: dict[str, Any] = read_json(
            self.study, RunError, {"command": words, "code": words, "splits": str, "cases": hashes}
        )
        return found

    def count_folds(self) -> int:
        """Return how many folds splits.json has; raise `RunError` where it is damaged."""
        content = read_json(self.splits, RunError)
        if not isinstance(content, list) or len(content) < 2:
            raise RunError(f"{self.splits}: is damaged; a list with one split for each fold is expected")
        return len(content)

    @property
    def training(self) -> Path:
        """When each fold trained."""
        return self.path / "training.json"

    def log(self, fold: int) -> Path:
        """Return what a fold printed."""
        return self.path / f"fold{fold}.log"

    @property
    def predictions(self) -> Path:
        """The masks of the networks."""
        return self.path / "predictions"

    @property
    def cleaned(self) -> Path:
        """The masks after post-processing."""
        return self.path / "cleaned"

    @property
    def probabilities(self) -> Path:
        """What the networks say of each case, by which thresholds are found."""
        return self.path / "probabilities"

    def sample(self, case: str) -> Path:
        """Return the voxels of a case by which probabilities are calibrated."""
        return self.path / "calibration" / f"{case}.npz"

    @property
    def post(self) -> Path:
        """The post-processing."""
        return self.path / "post.yaml"

    @property
    def summary_steps(self) -> Path:
        """The steps of the mean curves that W&B has, so that none is logged twice."""
        return self.path / "wandb/summary_steps.json"

    @property
    def results(self) -> Path:
        """All scores; beside it the cases as CSV and the tables as Markdown."""
        return self.path / "results.json"

    @property
    def pictures(self) -> Path:
        """The worst cases."""
        return self.path / "pictures"

    @property
    def ensemble(self) -> Path:
        """All folds as one file."""
        return self.path / "ensemble.safetensors"

    @property
    def report(self) -> Path:
        """The page of the cross-validation."""
        return self.path / "report.html"

    @classmethod
    def of_run(cls, run: Path) -> "tuple[StudyFolder, int] | None":
        """Return the cross-validation that a run is a fold of, and which; None for another run."""
        named = re.fullmatch(r"(cv-.+)-fold(\d+)", run.name)
        return (cls(run.with_name(named[1])), int(named[2])) if named else None

    def run(self, fold: int) -> RunFolder:
        """Return the run of a fold."""
        return RunFolder(self.path.with_name(f"{self.path.name}-fold{fold}"))

    def checkpoint(self, fold: int) -> Path:
        """Return the checkpoint that a fold predicts with: the best, or the last where none was best."""
        run = self.run(fold)
        return run.best if run.best.exists() else run.last
