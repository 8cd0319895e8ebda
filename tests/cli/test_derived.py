"""What need not be typed: the network's sizes, which follow from data and checkpoint, and the folders of loggers."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from raum_lightning.cli import main
from raum_lightning.cli.command_line import read_command_line
from raum_lightning.cli.derived import derive
from raum_lightning.datasets import presets
from tests.helpers import EXPERIMENTS
from tests.helpers.cases import write_brats, write_brats_cases

# by `test` with a logger
WRITTEN = {"cases.csv", "cases.json", "metrics.csv"}

UNETR, DEBUG = str(EXPERIMENTS / "unetr.yaml"), str(EXPERIMENTS / "debug.yaml")


def sizes(*words: str) -> dict[str, Any]:
    return derive(read_command_line(words)).network


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {"in_channels": 3, "out_channels": 4, "img_size": [128, 128, 128]}),
        (["--data.modalities", "[t1, flair]"], {"in_channels": 2, "out_channels": 4, "img_size": [128, 128, 128]}),
        (["--data.dataset", "brats2024"], {"in_channels": 3, "out_channels": 5, "img_size": [128, 128, 128]}),
        (["--data.dataset", "brats2024"], {"in_channels": 3, "out_channels": 5, "img_size": [128, 128, 128]}),
        (["--module.loss.mode", "regions"], {"in_channels": 3, "out_channels": 3, "img_size": [128, 128, 128]}),
        (
            ["--module.loss", "torch.nn.CrossEntropyLoss", "--module.mode", "regions"],
            {"in_channels": 3, "out_channels": 3, "img_size": [128, 128, 128]},
        ),
        (["--data.roi_size", "[64, 48, 32]"], {"in_channels": 3, "out_channels": 4, "img_size": [64, 48, 32]}),
        (["--module.network.in_channels=7", "--module.network.init_args.img_size=[96, 96, 96]"], {"out_channels": 4}),
        (["--module.network", "monai.networks.nets.SegResNet"], {"in_channels": 3, "out_channels": 4}),
        (["--module.network.class_path", "torch.nn.Identity"], {}),
        (["--module.network", "none.Network"], {}),
        (["--data.modalities", "5"], {"in_channels": 3, "out_channels": 4, "img_size": [128, 128, 128]}),
    ],
    ids=str,
)
def test_sizes_follow_from_the_data(words: list[str], expected: dict[str, Any]) -> None:
    assert sizes("-c", UNETR, *words) == expected


def test_classes_of_cases_that_are_found(tmp_path: Path) -> None:
    write_brats(tmp_path, "BraTS-GLI-00000-000", presets()["brats2023"])
    assert sizes("-c", UNETR, "--data.root", str(tmp_path))["out_channels"] == 4
    declared = ["--data.root", str(tmp_path), "--data.dataset", "brats2024"]
    assert sizes("-c", UNETR, *declared)["out_channels"] == 5


@pytest.mark.slow
def test_a_run_states_them_and_its_checkpoint_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_brats_cases(tmp_path / "cases", 6)
    words = ["-c", DEBUG, "--data.root", "cases", "--run.id", "one", "--trainer.logger", "false"]
    assert main(["fit", *words, "--trainer.max_steps", "1"]) == 0
    run = tmp_path / "runs/debug/one"
    stated = yaml.safe_load((run / "config.yaml").read_text())["module"]["network"]["init_args"]
    assert (stated["in_channels"], stated["out_channels"], stated["img_size"]) == (3, 4, [32, 32, 32])
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["hyper_parameters"]["network"]["init_args"]
    assert {name: saved[name] for name in stated} == stated
    # the data alone would say 5
    write_brats(tmp_path / "gli", "BraTS-GLI-00000-000", presets()["brats2024"])
    assert main(["predict", *words, "--data.dataset", "brats2024", "--data.predict_root", "gli"]) == 0
    assert len(list((run / "predictions").glob("*.nii.gz"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("logger", "folder"),
    [
        ('{"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"name": "own"}}', "run"),
        ('{"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "mine"}}', "mine"),
        ('[{"class_path": "raum_lightning.loggers.WandbLogger", "init_args": {"save_dir": "mine"}}]', "mine"),
        ("raum_lightning.loggers.WandbLogger", "run"),
        ("true", None),
    ],
)
def test_loggers_keep_the_folder_that_they_are_given_or_get_the_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logger: str, folder: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    write_brats_cases(tmp_path / "cases", 6)
    words = ["-c", DEBUG, "--data.root", "cases", "--run.id", "one", "--trainer.logger", logger]
    assert main(["fit", *words, "--trainer.max_steps", "1"]) == 0
    run = tmp_path / "runs/debug/one"
    assert "train/loss" in (run / "metrics.csv").read_text()
    known = {"cases", "runs", *(["mine"] if folder == "mine" else [])}
    assert {path.name for path in tmp_path.iterdir()} == known
    own = {"config.yaml", "splits.json", "provenance.json", "metrics.csv", "checkpoints"}
    assert ({path.name for path in run.iterdir()} > own) == (folder == "run")
    # given again, its configuration is another run's
    assert str(run) not in (run / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("logger", "arguments"),
    [
        ("TensorBoardLogger", {"save_dir": "."}),
        ("lightning.pytorch.loggers.MLFlowLogger", {"save_dir": "."}),
        ('{"class_path": "MLFlowLogger", "init_args": {"save_dir": "mine"}}', None),
        ("raum_lightning.loggers.CSVLogger", None),
    ],
)
def test_only_what_has_another_default_is_completed(logger: str, arguments: dict[str, str] | None) -> None:
    words = derive(read_command_line(["-c", UNETR, "--trainer.logger", logger])).words
    (option,) = [word for word in words if word.startswith("--trainer.logger=")] or [""]
    assert (yaml.safe_load(option.partition("=")[2])[0]["init_args"] if option else None) == arguments


@pytest.mark.slow
def test_no_logger_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_brats_cases(tmp_path / "cases", 6)
    words = ["-c", DEBUG, "--data.root", "cases", "--run.id", "one", "--trainer.logger", "false"]
    assert main(["fit", *words, "--trainer.max_steps", "1"]) == 0
    assert not (tmp_path / "runs/debug/one/metrics.csv").exists()


@pytest.mark.slow
def test_results_go_where_they_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_brats_cases(tmp_path / "cases", 6)
    words = ["-c", DEBUG, "--data.root", "cases", "--data.test_fraction", "0.3", "--module.overlap", "0"]
    csv = ["--trainer.logger", "raum_lightning.loggers.CSVLogger"]
    assert main(["fit", *words, *csv, "--run.root", "theirs", "--run.id", "one", "--trainer.max_steps", "1"]) == 0
    before = sorted(path for path in (tmp_path / "theirs").rglob("*"))
    checkpoint = ["--ckpt_path", "theirs/debug/one/checkpoints/last.ckpt"]
    assert main(["test", *words, *csv, *checkpoint, "--run.root", "mine"]) == 0
    assert {path.name for path in (tmp_path / "mine/debug/last/test").iterdir()} == WRITTEN
    Path("mine.yaml").write_text(f"base: {DEBUG}\nrun: {{root: yours}}\n")
    assert main(["test", *words, "-c", "mine.yaml", *csv, *checkpoint]) == 0
    assert {path.name for path in (tmp_path / "yours/mine/last/test").iterdir()} == WRITTEN
    assert main(["test", *words, *csv, *checkpoint, '--run={"root": "ours"}']) == 0
    assert {path.name for path in (tmp_path / "ours/debug/last/test").iterdir()} == WRITTEN
    wandb = ["--trainer.logger", "raum_lightning.loggers.WandbLogger", "--trainer.logger.offline", "true"]
    assert main(["test", *words, *wandb, *checkpoint, "--out", "none", "--trainer.strategy", "no"]) == 2
    assert not Path("none").exists()
    assert main(["test", *words, *csv, *checkpoint, "--out", "scores"]) == 0
    assert {path.name for path in (tmp_path / "scores").iterdir()} == WRITTEN
    assert main(["predict", *words, *csv, *checkpoint, "--out", "masks"]) == 0
    assert {path.suffix for path in (tmp_path / "masks").iterdir()} <= {".gz", ".csv", ".txt", ".ctbl"}
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 2
    assert sorted(path for path in (tmp_path / "theirs").rglob("*")) == before
    assert main(["fit", *words, "--out", "x"]) == 2
    assert "--out is for validate, test and predict" in capsys.readouterr().err
