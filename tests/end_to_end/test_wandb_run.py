"""What W&B has of a run: training, test and prediction as parts of one run, read back from its files."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from raum_lightning.cli import main
from tests.helpers import DEBUG

LOGGER = {
    "class_path": "raum_lightning.loggers.WandbLogger",
    "init_args": {
        "offline": True,
        "entity": "lab",
        "notes": "a trial",
        "job_type": "train",
        "tags": ["small"],
        "group": "trials",
        "log_model": "best",
        "alerts": True,
    },
}


def records(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the records of a kind in an offline run."""
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(folder)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [record[kind] for record in map(json.loads, lines) if record["type"] == kind]


def summary(folder: Path) -> dict[str, Any]:
    return {key: value for record in records(folder, "summary") for key, value in record["update"].items()}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that was trained, tested and predicted with."""
    here = tmp_path_factory.mktemp("work")
    (here / "wandb.yaml").write_text(yaml.safe_dump({"trainer": {"logger": [LOGGER]}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        patch.delenv("WANDB_MODE", raising=False)
        assert main(["phantom", "runs/phantom-cases", "--cases", "6", "--shape", "48", "48", "40"]) == 0
        for verb in ("fit", "test", "predict"):
            time.sleep(1.1)  # wandb names the folder of a part by the second in which it begins
            assert main([verb, "-c", DEBUG, "-c", "wandb.yaml", "--run.id", "one", "--run.experiment", "debug"]) == 0
    return here


@pytest.fixture
def parts(work: Path) -> list[Path]:
    return sorted((work / "runs/debug/one/wandb").glob("offline-run-*-debug-one"))


def test_all_verbs_are_parts_of_one_run_with_the_keys_of_the_yaml(parts: list[Path]) -> None:
    assert len(parts) == 3
    for part in parts:
        (run,) = records(part, "run")
        assert (run["run_id"], run["entity"], run["job_type"], run["run_group"]) == (
            "debug-one",
            "lab",
            "train",
            "trials",
        )
        assert (run["notes"], run["tags"]) == ("a trial", ["small"])


def test_the_configuration_says_what_a_run_is_made_of(work: Path, parts: list[Path]) -> None:
    config: dict[str, Any] = {}
    for record in records(parts[0], "config"):
        config |= record.get("update", {})
    run = work / "runs/debug/one"
    assert config["split"] == json.loads((run / "splits.json").read_text())
    (start,) = json.loads((run / "provenance.json").read_text())
    # folders of this machine are not sent
    assert start.pop("code")[0] == str(work) and start.pop("started") and config["provenance"] == start
    assert {"commit", "data", "versions", "hardware"} == start.keys() and len(start["data"]) == 16


def test_dice_curves_come_first_and_the_others_are_no_panels(parts: list[Path]) -> None:
    rows = [record["item"] for record in records(parts[0], "history")]
    scored = [row for row in rows if "val/dice_mean" in row][-1]
    for region in ("wt", "tc", "et", "mean"):
        assert scored[f"dice/{region}"] == scored[f"val/dice_{region}"]
    sections = {
        key.split("/")[0] for row in rows for key in row if not key.startswith("_") and key != "trainer/global_step"
    }
    assert sorted(sections - {"epoch"})[0] == "dice" and "lr" not in sections
    metrics = records(parts[0], "metric")
    hidden = [metric.get("name") or metric["glob_name"] for metric in metrics if metric["options"].get("hidden")]
    assert hidden == ["epoch", "val/dice_*"]


def test_the_best_checkpoint_is_an_artifact_with_its_card_and_the_end_is_alerted(parts: list[Path]) -> None:
    (model,) = [artifact for artifact in records(parts[0], "artifact") if artifact["type"] == "model"]
    assert {entry["path"] for entry in model["manifest"]["contents"]} == {"best.ckpt", "model_card.json"}
    assert "best" in model["aliases"]
    assert json.loads(model["metadata"])["model_card"]["modalities"] == ["flair", "t1ce", "t2"]
    (alert,) = records(parts[0], "alert")
    assert alert["title"] == "training has ended" and alert["text"].startswith("4 steps, best val/dice_mean 0.")


def test_scores_and_predictions_are_summary_and_tables(work: Path, parts: list[Path]) -> None:
    _, test, predict = parts
    assert not records(test, "history") and not records(predict, "history")
    scores = summary(test)
    assert scores["test/cases"]["nrows"] == 1 and 0 <= scores["test/dice_mean"] <= 1
    table = json.loads(next(test.rglob("cases*.table.json")).read_text())
    assert table["columns"][:2] == ["case", "dice_wt"]
    drawn = summary(predict)
    assert drawn["predict/cases"]["nrows"] == 1
    (case,) = [path.name.removesuffix(".nii.gz") for path in (work / "runs/debug/one/predictions").glob("*.nii.gz")]
    table = json.loads(next(predict.rglob("cases*.table.json")).read_text())
    assert table["columns"] == ["case", "WT", "TC", "ET"] and table["data"][0][0] == case
    (key,) = [key for key in drawn if key.startswith("predictions/")]
    assert key == f"predictions/{case}" and drawn[key]["count"] > 1


def test_a_training_that_fails_is_alerted(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    words = ["-c", DEBUG, "-c", "wandb.yaml", "--run.id", "nan", "--run.experiment", "debug", "--module.lr", "1e30"]
    assert main(["fit", *words]) == 2
    (part,) = (work / "runs/debug/nan/wandb").glob("offline-run-*")
    (alert,) = records(part, "alert")
    assert alert["title"] == "training has failed" and "NaN or infinite" in alert["text"]
