"""`raum wandb-workspace`: the dashboard as it would be sent, and what is refused before anything is."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb_workspaces.workspaces import Workspace

from raum_lightning.cli import main
from raum_lightning.errors import ConfigError, RunError
from raum_lightning.loggers import CSVLogger
from raum_lightning.runs.study_folder import StudyFolder
from raum_lightning.studies import workspace
from raum_lightning.studies.workspace import lay_out

WANDB = {"class_path": "raum_lightning.loggers.WandbLogger", "init_args": {"project": "raum", "entity": "team"}}
CONFIG: dict[str, Any] = {"trainer": {"logger": [{"class_path": "raum_lightning.loggers.CSVLogger"}, WANDB]}}


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """A cross-validation of three folds."""
    found = StudyFolder(tmp_path / "runs/small/cv-3fold")
    found.path.mkdir(parents=True)
    found.run(0).path.mkdir()
    logger = CSVLogger(found.run(0).path)
    logger.log_metrics({"train/loss": 1.0}, 5)
    logger.log_metrics({"val/loss": 1.0, "val/dice_wt": 0.5, "val/dice_et": 0.4, "val/dice_mean": 0.45}, 9)
    found.study.write_text("{}")
    found.splits.write_text(json.dumps([{}, {}, {}]))
    found.config.write_text(yaml.safe_dump(CONFIG))
    return found


def test_the_dice_of_all_folds_comes_first(folder: StudyFolder) -> None:
    laid_out = lay_out(CONFIG, folder, 3)
    view = laid_out._to_model()
    assert (view.entity, view.project, view.display_name) == ("team", "raum", "small/cv-3fold")
    spec = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))["section"]
    sections = spec["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == ["Dice of all folds", "Mean and spread", "Training"]
    assert [section["isOpen"] for section in sections] == [True, True, False]
    first = [panel["config"] for panel in sections[0]["panels"]]
    assert [panel["metrics"] for panel in first] == [["val/dice_mean"], ["val/dice_wt"], ["val/dice_et"]]
    assert [panel["chartTitle"] for panel in first][:2] == ["Dice mean, each fold", "Dice WT, each fold"]
    assert {panel["xAxis"] for panel in first} == {"trainer/global_step"}
    assert sections[1]["panels"][0]["config"]["metrics"] == ["dice/mean", "dice/wt", "dice/et"]
    # of the folds' group alone
    (chosen,) = spec["runSets"][0]["filters"]["filters"]
    assert (chosen["key"]["name"], chosen["op"], chosen["value"]) == ("group", "=", "small/cv-3fold")
    assert '"train/lr"' in json.dumps(spec)  # as raum's own logger sends it


def test_the_command_says_where_it_is(
    folder: StudyFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent: list[Workspace] = []

    def save(self: Workspace) -> Workspace:
        sent.append(self)
        return self

    monkeypatch.setattr(Workspace, "save", save)
    monkeypatch.setattr(Workspace, "url", "https://wandb.ai/other/raum?nw=1")
    assert main(["wandb-workspace", str(folder.path), "--entity", "other"]) == 0
    assert capsys.readouterr().out == "dashboard: https://wandb.ai/other/raum?nw=1\n" and sent[0].entity == "other"

    def refuse(self: Workspace) -> Workspace:
        raise OSError("no network\nat all")

    monkeypatch.setattr(Workspace, "save", refuse)
    assert main(["wandb-workspace", str(folder.path)]) == 2
    assert "W&B does not take the workspace (no network); log in with" in capsys.readouterr().err
    assert main(["wandb-workspace", str(folder.run(0).path)]) == 2
    assert "is not the folder of a cross-validation" in capsys.readouterr().err


def test_what_is_missing_is_said(folder: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    with pytest.raises(ConfigError, match=r"trainer\.logger has no WandbLogger"):
        lay_out({"trainer": {"logger": None}}, folder, 3)
    alone = {"trainer": {"logger": WANDB | {"init_args": {"project": "raum", "entity": None}}}}
    with pytest.raises(ConfigError, match="give --entity"):
        lay_out(alone, folder, 3)
    monkeypatch.setenv("WANDB_ENTITY", "mine")
    assert lay_out(alone, folder, 3).entity == "mine"
    (folder.run(0).metrics).write_text("step,train/loss\n5,1\n")
    with pytest.raises(RunError, match="has not been validated yet"):
        lay_out(CONFIG, folder, 3)
    monkeypatch.setattr(workspace, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'raum-lightning\[workspace\]'"):
        lay_out(CONFIG, folder, 3)
