"""What W&B has of a cross-validation: one group of folds, and one run that sums them up, read back from its files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from raum_lightning.loggers import CSVLogger, WandbLogger, finish_wandb
from raum_lightning.runs.study_folder import StudyFolder
from raum_lightning.studies.wandb_summary import curves, group_folds, log_summary
from tests.end_to_end.test_wandb_run import records

FOLDS: Sequence[Sequence[float]] = ([0.2, 0.5, 0.9], [0.4, 0.7])
SUMMARY = {"dice_wt": {"mean": 0.6, "std": 0.1, "median": 0.6, "low": 0.5, "high": 0.7, "cases": 2}}
CONTENT: dict[str, Any] = {
    "folds": [{}, {}],
    "summary": SUMMARY,
    "cleaned": {"summary": SUMMARY},
    "cases": {"one": {"dice_wt": 0.5}, "two": {"dice_wt": 0.7}},
    "fold_of": {"one": 0, "two": 1},
    "pictures": {},
    "provenance": {"commit": "abc", "command": "raum cross-validate --data.exclude [one]"},
}


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    """Two folds with curves, of which the second was validated less often."""
    folder = StudyFolder(tmp_path / "runs/small/cv-2fold")
    for fold, values in enumerate(FOLDS):
        path = folder.run(fold).path
        path.mkdir(parents=True)
        logger = CSVLogger(path)
        for number, value in enumerate(values):
            logger.log_metrics({"train/loss": 1.0}, 10 * number + 5)
            logger.log_metrics({"val/dice_wt": value}, 10 * number + 9)
    return folder


def test_mean_and_spread_of_the_curves(study: StudyFolder) -> None:
    found = curves(study, 2)
    assert list(found) == [9, 19]
    assert found[9] == pytest.approx({"dice/wt": 0.3, "dice/wt_sd": 0.1})
    assert found[19] == pytest.approx({"dice/wt": 0.6, "dice/wt_sd": 0.1})


@pytest.mark.slow
def test_one_group_of_folds_and_one_summary(study: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    spec: dict[str, Any] = {
        "class_path": "raum_lightning.loggers.WandbLogger",
        "init_args": {"offline": True, "group": "other", "job_type": "train", "id": None, "save_dir": "."},
    }
    config = {"trainer": {"logger": [{"class_path": "raum_lightning.loggers.CSVLogger"}, spec]}}
    group_folds(config, study)
    for fold in (0, 1):  # as in a fold's own process
        own = {**spec["init_args"], "id": f"small-cv-2fold-fold{fold}", "save_dir": study.run(fold).path}
        logger: Any = WandbLogger(**own)
        logger.log_metrics({"val/dice_wt": 0.5}, 9)
        finish_wandb(failed=False)
    log_summary(config, study, CONTENT)
    log_summary(config, study, CONTENT)  # as the same command again: the curves are logged once
    runs = [records(path, "run")[0] for path in sorted(study.path.parent.glob("*/wandb/offline-run-*"))]
    assert sorted((run["run_id"], run["run_group"], run["job_type"]) for run in runs) == [
        *[("small-cv-2fold", "small/cv-2fold", "summary")] * 2,
        ("small-cv-2fold-fold0", "small/cv-2fold", "fold"),
        ("small-cv-2fold-fold1", "small/cv-2fold", "fold"),
    ]
    summary, again = sorted(study.path.glob("wandb/offline-run-*"), key=lambda path: len(records(path, "history")))[
        ::-1
    ]
    assert not [row for row in records(again, "history") if "dice/wt" in row["item"]]
    rows = [record["item"] for record in records(summary, "history")]
    curve = [(row["trainer/global_step"], row["dice/wt"]) for row in rows if "dice/wt" in row]
    assert curve == [(9, pytest.approx(0.3)), (19, pytest.approx(0.6))]
    table = json.loads(next(summary.rglob("cases*.table.json")).read_text())
    assert table["columns"] == ["case", "fold", "dice_wt"] and table["data"] == [["one", 0, 0.5], ["two", 1, 0.7]]


@pytest.mark.slow
def test_lightnings_own_logger_is_one_too_and_ids_stay_hidden(
    study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    own = {"version": None, "prefix": "", "log_model": False, "offline": False, "project": "p"}
    spec = {"class_path": "lightning.pytorch.loggers.WandbLogger", "init_args": own}
    log_summary({"trainer": {"logger": spec}}, study, CONTENT)
    hidden = {"class_path": "raum_lightning.loggers.WandbLogger", "init_args": {"hash_ids": True}}
    log_summary({"trainer": {"logger": hidden}}, study, CONTENT)
    shown, unseen = sorted(study.path.glob("wandb/offline-run-*"), key=lambda path: path.stat().st_mtime_ns)
    said = ["".join(map(str, records(path, "run") + records(path, "config"))) for path in (shown, unseen)]
    assert ["raum cross-validate" in text for text in said] == [True, False] and "abc" in said[1]


def test_without_wandb_nothing_is_logged(study: StudyFolder) -> None:
    log_summary({"trainer": {"logger": {"class_path": "raum_lightning.loggers.CSVLogger"}}}, study, CONTENT)
    assert not (study.path / "wandb").exists()
