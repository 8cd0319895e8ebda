"""The command line as users type it: every verb on synthetic cases, and what it says to mistakes."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from raum_lightning import SegmentationModule, __version__
from raum_lightning.cli import TOOL_VERBS, TRAINER_VERBS, main

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
DEBUG = ["-c", str(EXPERIMENTS / "debug.yaml")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with synthetic cases and one run of debug.yaml on them."""
    here = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert main(["phantom", "runs/phantom-cases", "--cases", "6", "--shape", "48", "48", "40"]) == 0
        assert main(["fit", *DEBUG, "--run.id", "one"]) == 0
    return here


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == main([]) == 0
    shown = capsys.readouterr().out
    for verb, text in {**TRAINER_VERBS, **TOOL_VERBS}.items():
        assert f"  {verb} " in shown and text in shown


def test_an_unknown_verb_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    assert "there is no verb 'train'" in capsys.readouterr().err


@pytest.mark.parametrize("program", [["-m", "raum_lightning"], ["raum"], ["lightning"]])
def test_three_ways_to_start_the_same_program(program: list[str]) -> None:
    command = [sys.executable, *program] if program[0] == "-m" else [str(Path(sys.executable).parent / program[0])]
    done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"raum {__version__}\n" and done.stderr == ""


def test_help_and_version_load_nothing_heavy() -> None:
    code = (
        "import sys; from raum_lightning.cli import main; main(['--help']); main(['--version']);"
        "sys.exit(', '.join({'torch', 'lightning', 'torchio', 'wandb', 'numpy'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("verb", TOOL_VERBS)
def test_every_tool_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([verb, "--help"])
    assert TOOL_VERBS[verb] in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_is_complete(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "-c", str(path), "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    network = config["module"]["network"]["init_args"]
    assert network["in_channels"] == len(config["data"]["modalities"])
    assert network["out_channels"] == (3 if config["module"]["loss"]["init_args"]["mode"] == "regions" else 4)
    assert network["img_size"] == config["data"]["roi_size"]


def test_unknown_keys_are_rejected_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    for key in ("module.netwrok", "data.rot", "trainer.max_step"):
        with pytest.raises(SystemExit, match="2"):
            main(["fit", *DEBUG, f"--{key}", "1"])
        assert key in capsys.readouterr().err


def test_a_run_keeps_everything_in_its_folder(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} == {"runs"}
    assert {path.name for path in (trained / "runs").iterdir()} == {"debug", "phantom-cases", "prepared"}
    run = trained / "runs/debug/one"
    assert {"config.yaml", "splits.json", "metrics.csv", "checkpoints", "wandb"} <= {
        path.name for path in run.iterdir()
    }
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "previous.ckpt"}
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    for name in ("train/loss", "val/dice_wt", "val/dice_tc", "val/dice_et", "val/dice_mean", "val/loss", "lr"):
        assert [row for row in rows if row[name]], name
    split = json.loads((run / "splits.json").read_text())
    assert len({name for part in split.values() for name in part}) == 6
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["run"]["id"], config["module"]["overlap"], config["base"]) == ("one", 0.0, None)


def test_its_configuration_runs_again(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    again = ["-c", "runs/debug/one/config.yaml", "--run.id", "two", "--trainer.logger", "false"]
    assert main(["fit", *again, "--trainer.max_steps", "1"]) == 0
    assert (trained / "runs/debug/two/checkpoints/last.ckpt").is_file()


def test_the_same_yaml_validates_tests_and_predicts(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    checkpoint = ["--ckpt_path", "runs/debug/one/checkpoints/best.ckpt"]
    for verb, words in (("validate", checkpoint), ("test", checkpoint), ("predict", checkpoint)):
        assert main([verb, *DEBUG, *words]) == 0
    run = trained / "runs/debug/one"
    split = json.loads((run / "splits.json").read_text())
    for verb, part in (("validate", "val"), ("test", "test")):
        rows = list(csv.DictReader((run / verb / "cases.csv").read_text().splitlines()))
        assert [row["case"] for row in rows] == split[part]
        assert {"dice_wt", "dice_tc", "dice_et", "dice_mean", "precision_wt", "recall_et"} <= set(rows[0])
    assert "flair/dice_wt" in rows[0]
    shown = capsys.readouterr().out
    assert "Dice on whole volumes" in shown and "brighter than a threshold" in shown
    for case in split["test"]:
        source = nib.load(trained / f"runs/phantom-cases/{case}/{case}_flair.nii.gz")
        mask = nib.load(run / "predictions" / f"{case}.nii.gz")
        assert mask.shape == source.shape and np.array_equal(mask.affine, source.affine)
        assert set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2, 4}


def test_a_checkpoint_loads_in_three_lines(trained: Path) -> None:
    module = SegmentationModule.load_from_checkpoint(trained / "runs/debug/one/checkpoints/best.ckpt")
    logits = module.eval()(torch.zeros(1, 3, 32, 32, 32))
    assert logits.shape == (1, 4, 32, 32, 32)
    saved = torch.load(trained / "runs/debug/one/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(weight, saved[name]) for name, weight in module.state_dict().items())


def test_without_a_checkpoint_the_newest_run_of_the_experiment_is_taken(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    assert main(["validate", *DEBUG, "--run.experiment", "other"]) == 2
    assert "run `lightning fit` first" in capsys.readouterr().err
    assert main(["validate", *DEBUG, "--trainer.logger", "false"]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data.root", "nowhere"], "nowhere: no such folder; data.root is the folder that holds the cases"),
        (["--data.modalities", "[flair]"], "in_channels=3 but data.modalities are 1: flair"),
        (["--data.modalities", "[flair, pet, t2]"], "must be some of flair, t1, t1ce, t2, each once"),
        (["--data.roi_size", "[64, 64, 64]"], "img_size=[32, 32, 32] but data.roi_size=[64, 64, 64]"),
        (["--module.network.init_args.embed_dim", "25"], "embed_dim=25 is not divisible by num_heads=4"),
        (["--module.network.init_args.out_channels", "5"], "out_channels=5 but labels of this data need 4"),
        (["--module.metrics", "[dise]"], "metric 'dise' does not exist; choose from dice"),
        (["--ckpt_path", "none.ckpt"], "none.ckpt: no such checkpoint"),
        (["--data.fold", "7"], "fold 7 does not exist"),
        (["--trainer.max_steps", "-1", "--trainer.max_epochs", "-1"], "set trainer.max_steps or max_epochs"),
    ],
)
def test_a_users_mistake_gets_one_sentence(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    monkeypatch.chdir(trained)
    assert main(["fit", *DEBUG, "--trainer.logger", "false", "--run.id", "mistake", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error


def test_check_finds_what_is_wrong(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = trained / "runs/phantom-cases"
    assert main(["check", str(root)]) == 0
    assert "6 cases, 0 with problems" in capsys.readouterr().out
    case = "BraTS20_Training_001"
    (tmp_path / case).mkdir()
    for path in (root / case).iterdir():
        if not path.name.endswith("_t2.nii.gz"):
            (tmp_path / case / path.name).symlink_to(path)
    assert main(["check", str(tmp_path), "--json"]) == 1
    (row,) = json.loads(capsys.readouterr().out)
    assert row == {
        "id": case,
        "edition": "brats2020",
        "modalities": ["flair", "t1", "t1ce"],
        "problems": ["missing: t2"],
    }
