"""The command line as users type it: every verb on synthetic cases, and what it says to mistakes."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml

from raum_lightning import __version__
from raum_lightning.cli import TOOL_VERBS, TRAINER_VERBS, main, parse
from raum_lightning.module import SegmentationModule
from tests.helpers import EXPERIMENTS

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
    assert "RAUM_TRACEBACK" in shown
    for verb, text in {**TRAINER_VERBS, **TOOL_VERBS}.items():
        assert f"  {verb} " in shown and text in shown


def test_an_unknown_verb_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train"]) == 2
    assert "there is no verb 'train'" in capsys.readouterr().err


@pytest.mark.slow
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
    assert TOOL_VERBS[verb] in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_is_complete(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "-c", str(path), "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    network = config["module"]["network"]["init_args"]
    assert network["in_channels"] == len(config["data"]["modalities"])
    assert network["out_channels"] == (3 if config["module"]["loss"]["init_args"]["mode"] == "regions" else 4)
    assert network["img_size"] == config["data"]["roi_size"]


def test_every_key_of_the_reference_run_is_explained() -> None:
    lines = (EXPERIMENTS / "unetr.yaml").read_text().splitlines()
    valued = [line for line in lines if re.match(r" *(- )?\w+: +[^#\s]", line)]
    assert len(valued) > 50 and [line for line in valued if "#" not in line] == []


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
    assert (config["run"]["id"], config["module"]["overlap"]) == (None, 0.0)


def test_its_configuration_runs_again(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    again = ["-c", "runs/debug/one/config.yaml", "--trainer.max_steps", "1"]
    monkeypatch.setattr("time.strftime", lambda *pattern: "two")
    assert main(["fit", *again]) == 0
    two = trained / "runs/debug/two"
    assert (two / "checkpoints/last.ckpt").is_file()
    # as a W&B run of its own
    assert next(two.glob("wandb/offline-run-*")).name.endswith("-debug-two")
    config = yaml.safe_load((two / "config.yaml").read_text())
    wandb = config["trainer"]["logger"][1]["init_args"]
    assert (wandb["id"], wandb["name"], wandb["group"]) == (None, None, None)
    assert config["trainer"]["default_root_dir"] is None


def test_the_run_that_is_named_is_taken(
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(trained)
    (trained / "runs/debug/newer/checkpoints").mkdir(parents=True)
    (trained / "runs/debug/newer/checkpoints/best.ckpt").touch()
    for words in ([*DEBUG, "--run.id", "one"], ["-c", "runs/debug/one/config.yaml"]):
        caplog.clear()
        assert main(["validate", *words, "--trainer.logger", "false"]) == 0
        assert "checkpoint: runs/debug/one/checkpoints/best.ckpt" in caplog.text
    assert main(["test", *DEBUG, "--run.id", "none"]) == 2
    assert "no best or last.ckpt in runs/debug/none/checkpoints" in capsys.readouterr().err
    shutil.rmtree(trained / "runs/debug/newer")


def test_a_checkpoint_from_elsewhere_gets_a_folder_among_the_runs(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained)
    shutil.copy("runs/debug/one/checkpoints/best.ckpt", tmp_path / "model.ckpt")
    words = ["--ckpt_path", str(tmp_path / "model.ckpt"), "--run.experiment", "tuned", "--trainer.logger", "false"]
    assert main(["test", *DEBUG, *words]) == 0
    assert (trained / "runs/tuned/model/test/cases.csv").is_file()
    monkeypatch.setattr("time.strftime", lambda *pattern: "now")
    assert main(["fit", *DEBUG, *words, "--trainer.max_steps", "5"]) == 0
    assert (trained / "runs/tuned/now/checkpoints/last.ckpt").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]


def test_cases_that_have_trained_are_not_scored(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    split = json.loads(Path("runs/debug/one/splits.json").read_text())
    swapped = {"train": split["val"], "val": split["train"][:1], "test": split["train"][1:2]}
    Path("swapped.json").write_text(json.dumps(swapped))
    words = ["--ckpt_path", "runs/debug/one/checkpoints/best.ckpt", "--trainer.logger", "false"]
    for verb, cases in (
        ("validate", swapped["val"]),
        ("test", swapped["test"]),
        ("predict", swapped["test"]),
        ("fit", sorted(swapped["val"] + swapped["test"])),
    ):
        other = ["--data.splits", "swapped.json", *(["--run.id", "swapped"] if verb == "fit" else [])]
        assert main([verb, *DEBUG, *words, *other]) == 2
        said = (
            f"{len(cases)} of {len(cases)} cases to be scored were used to train this checkpoint ({', '.join(cases)})"
        )
        assert said in capsys.readouterr().err
    Path("swapped.json").unlink()
    assert main(["predict", *DEBUG, *words, "--data.predict_root", "runs/phantom-cases"]) == 0  # as any cases


def test_cases_are_predicted_without_those_that_trained(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    words = ["predict", *DEBUG, "--ckpt_path", "runs/debug/one/checkpoints/best.ckpt", "--trainer.logger", "false"]
    words += ["--data.root", "none", "--out", "masks"]
    assert main([*words, "--data.predict_root", "runs/phantom-cases"]) == 0
    assert len([*Path("masks").glob("*.nii.gz")]) == 6
    assert main(words) == 2
    assert "none: no such folder" in capsys.readouterr().err


def test_channels_in_another_order_are_noticed(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    words = ["--ckpt_path", "runs/debug/one/checkpoints/best.ckpt", "--data.modalities", "[t2, t1ce, flair]"]
    for verb in ("validate", "test", "predict", "fit"):
        assert main([verb, *DEBUG, *words, "--run.id", "swapped", "--trainer.logger", "false"]) == 2
        said = "trained on flair, t1ce, t2, in this order, and data.modalities are t2, t1ce, flair"
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--data.fold", "1"],
            "was trained with other data.fold (data.fold was 0 and is 1): continue the run as it was, or train another "
            "under another --run.id",
        ),
        (
            ["--module.lr", "0.5"],
            "was trained with other module.lr (module.lr was 0.0015 and is 0.5): continue the run as it was, or train "
            "another from its weights with --module.init_from",
        ),
        (["--trainer.gradient_clip_val", "0.5"], "other trainer.gradient_clip_val (trainer.gradient_clip_val was 1.0"),
        (["--seed_everything", "7"], "other seed_everything (seed_everything was 0 and is 7)"),
        (["--data.modality_dropout", "{flair: 0.2}"], "(data.modality_dropout was None and is {'flair': 0.2})"),
        (["--data.fill_absent", "{flair: t2}"], "trained with other data.fill_absent ("),
        (["--module.betas", "[.9,.95]", "--module.no_decay", "true"], "other module.betas, module.no_decay (module.be"),
        (
            ["--module.optimizer", "torch.optim.SGD", "--module.optimizer.init_args.lr", "0.1"],
            "(module.optimizer.class_path was None and is torch.optim.SGD)",
        ),
        (
            ["--module.network.init_args.dropout", "0.1", "--data.foreground_probability", "0.6"],
            "other module.network.init_args.dropout, data.foreground_probability (",
        ),
    ],
)
def test_a_run_goes_on_as_it_was(
    trained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(trained)
    again = ["--run.id", "one", "--ckpt_path", "auto", "--trainer.logger", "false", "--data.num_workers", "1"]
    assert main(["fit", *DEBUG, *again, *words]) == 2
    assert said in capsys.readouterr().err


def test_another_run_that_resumes_has_its_optimiser(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    words = ["--run.id", "next", "--ckpt_path", "runs/debug/one/checkpoints/last.ckpt", "--trainer.logger", "false"]
    assert main(["fit", *DEBUG, *words, "--trainer.max_steps", "6", "--module.lr", "0.5"]) == 2
    assert "(module.lr was 0.0015 and is 0.5)" in capsys.readouterr().err


def test_the_best_few_are_kept(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    more = ["--run.keep", "2", "--trainer.max_steps", "6", "--trainer.logger", "false"]
    assert main(["fit", *DEBUG, "--run.id", "kept", *more]) == 0
    folder = trained / "runs/debug/kept/checkpoints"
    best = [path for path in folder.iterdir() if path.name.startswith("best-")]
    assert len(best) == 2 and {path.name for path in best} < {"best-2.ckpt", "best-4.ckpt", "best-6.ckpt"}
    assert (folder / "best.ckpt").resolve() in best
    assert main(["validate", *DEBUG, "--run.id", "kept", "--trainer.logger", "false"]) == 0


def test_the_same_yaml_validates_tests_and_predicts(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    checkpoint = ["--ckpt_path", "runs/debug/one/checkpoints/best.ckpt"]
    best = ["--run.id", "one", "--ckpt_path", "auto"]  # the key of a file with which it is trained
    for verb, words in (("validate", best), ("test", checkpoint), ("predict", checkpoint)):
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
        (["--data.root", "nowhere"], "nowhere: no such folder"),
        (
            ["--data.modalities", "[flair]", "--module.network.in_channels", "3"],
            "in_channels=3 but data.modalities are 1: flair",
        ),
        (["--data.modalities", "[flair, pet, t2]"], "must be some of flair, t1, t1ce, t2, each once"),
        (
            ["--data.roi_size", "[64, 64, 64]", "--module.network.img_size", "[32, 32, 32]"],
            "img_size=[32, 32, 32] but data.roi_size=[64, 64, 64]",
        ),
        (["--module.network.init_args.embed_dim", "25"], "embed_dim=25 is not divisible by num_heads=4"),
        (["--module.network.init_args.out_channels", "5"], "out_channels=5 but the labels of brats2020 need 4"),
        (["--module.metrics", "[dise]"], "metric 'dise' does not exist; choose from dice"),
        (["--ckpt_path", "none.ckpt"], "none.ckpt: no such checkpoint"),
        (["--run.keep", "0"], "run.keep=0 must be at least 1"),
        (["--trainer.accelerator", "gpu", "--trainer.devices", "64"], "error: trainer: "),
        (
            ["--ckpt_path", "runs/debug/one/checkpoints/best.ckpt", "--module.network.init_args.feature_size", "8"],
            "the checkpoint is of another network than module.network",
        ),
        (["--data.fold", "7"], "data.fold=7 does not exist"),
        (["--trainer.overfit_batches", "2"], "trainer.overfit_batches=2: each epoch samples new patches"),
        (["--trainer.val_check_interval", "30"], "trainer.val_check_interval=30: "),
        (["--trainer.strategy", "deepspeedy"], "trainer.strategy=deepspeedy: "),
        (["--trainer.devices", "[0,1]"], "trainer.devices=[0, 1]: "),
        (["--trainer.barebones", "true"], "error: trainer"),
        (["--trainer.profiler", "fastest"], "trainer.profiler=fastest: "),
        (["--trainer.precision", "8-true"], "trainer.precision"),
        (
            ["--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/dice"],
            "trainer.callbacks: EarlyStopping monitors val/dice, which is not logged; give val/dice_mean, ",
        ),
        (["--trainer.max_time", "soon"], "trainer.max_time=soon must be a time above 0"),
        (["--trainer.gradient_clip_algorithm", "mean"], "trainer.gradient_clip_algorithm=mean: "),
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


def test_a_folder_that_cannot_be_written_is_named(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    (trained / "file").touch()
    assert main(["fit", *DEBUG, "--run.root", "file"]) == 2
    assert "file: is a file where a folder is expected; give another folder" in capsys.readouterr().err
    assert main(["phantom", "file/cases", "--cases", "1", "--shape", "32", "32", "32"]) == 2
    assert "error: file: is a file where" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--trainer.enable_checkpointing", "false"], ["--trainer.log_every_n_steps", "0"]], ids=str
)
def test_what_can_be_switched_off(trained: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.chdir(trained)
    name = words[0].rpartition(".")[2]
    logger = ["--trainer.logger", "raum_lightning.loggers.CSVLogger"]
    assert main(["fit", *DEBUG, *logger, "--run.id", name, "--trainer.max_steps", "1", *words]) == 0
    assert (trained / "runs/debug" / name / "checkpoints").exists() == (name != "enable_checkpointing")


def test_check_finds_what_is_wrong(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = trained / "runs/phantom-cases"
    assert main(["check", str(root)]) == 0
    assert "6 cases, 6 without findings; 0 errors, 0 warnings" in capsys.readouterr().out
    case = "BraTS20_Training_001"
    (tmp_path / case).mkdir()
    for path in (root / case).iterdir():
        if not path.name.endswith("_t2.nii.gz"):
            (tmp_path / case / path.name).symlink_to(path)
    assert main(["check", str(tmp_path), "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    summary = content["summary"]
    assert {"cases": 1, "cases_with_findings": 1, "errors": 1, "warnings": 0}.items() <= summary.items()
    assert summary["patients"] == 1 and list(summary["classes"]) == ["NCR", "ED", "ET"]
    (row,) = content["cases"]
    assert (row["id"], row["modalities"]) == (case, ["flair", "t1", "t1ce"])
    (finding,) = row["findings"]
    assert finding["severity"] == "error" and finding["message"] == "missing: t2 (found flair, t1, t1ce)"


def test_a_progress_bar_of_ones_own_replaces_ours(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)
    words = ["--trainer.callbacks+=TQDMProgressBar", "--trainer.logger", "false", "--trainer.max_steps", "1"]
    assert main(["fit", *DEBUG, "--run.id", "bar", *words]) == 0


def test_a_finished_checkpoint_is_not_trained_for_no_step(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    words = ["--ckpt_path", "runs/debug/one/checkpoints/last.ckpt", "--run.id", "more", "--trainer.logger", "false"]
    assert main(["fit", *DEBUG, *words]) == 2
    said = (
        "last.ckpt was saved at step 4 and trainer.max_steps is 4: nothing is left to train; give --trainer.max_steps"
    )
    shown = capsys.readouterr().err
    assert said in shown and shown.endswith("--module.init_from runs/debug/one/checkpoints/last.ckpt\n")
    assert not Path("runs/debug/more").exists()


@pytest.mark.slow
def test_help_begins_with_what_is_ours(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["fit", "--help"])
    shown = capsys.readouterr().out
    keys = ("ckpt_path\n", "run.id\n", "module.lr ", "data.root ", "trainer.max_steps ")
    places = [shown.index(f"\n  --{key}") for key in keys]
    assert places == sorted(places)
    assert "auto: resume this run" in " ".join(shown[places[0] :].split())


def test_public_names_are_listed() -> None:
    import raum_lightning

    assert set(raum_lightning.__all__) <= set(dir(raum_lightning))
    assert {"UNETR", "load", "SegmentationModule"} <= set(dir(raum_lightning))


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "raum_lightning", "datasets", "brats2020"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_output_that_is_closed_or_full_is_no_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        assert main(["datasets", "brats2020"]) == main(["--help"]) == 0
    with Path("/dev/full").open("w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert main(["--help"]) == 2
        full.flush()  # what could not be written is dropped
    assert "error: a file could not be written (No space left on device)" in capsys.readouterr().err


def test_segmenting_many_cases_looks_at_its_folders_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    words = ["segment", "--checkpoint", "none.ckpt", "--cases", str(tmp_path)]
    for outputs in (["--out", str(tmp_path / "file")], ["--out", "o", "--probabilities", str(tmp_path / "file")]):
        assert main([*words, *outputs]) == 2
        assert "file: is a file where a folder is expected; give another folder" in capsys.readouterr().err


def test_sizes_that_no_machine_has_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["phantom", str(tmp_path / "p"), "--cases", "1", "--shape", *["1000000"] * 3]) == 2
    assert "a shape of 1000000 x 1000000 x 1000000 has more than the 134,217,728 voxels" in capsys.readouterr().err
    assert not (tmp_path / "p").exists()
    (tmp_path / "r/experiments").mkdir(parents=True)
    (tmp_path / "r/experiments/unetr.yaml").write_bytes(b"# f\xfcr uns")
    assert main(["init", str(tmp_path / "r")]) == 2
    assert "unetr.yaml: exists and is another" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_was_moved_keeps_its_best(
    brats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*DEBUG, "--data.root", str(brats), "--trainer.logger", "false", "--run.id", "one", "--run.root"]
    assert main(["fit", *words, "before", "--module.lr", "0"]) == 0
    best = torch.load("before/debug/one/checkpoints/best.ckpt", weights_only=True)
    shutil.move("before", "after")
    # the same weights for ever: none is better than the first
    assert main(["fit", *words, "after", "--module.lr", "0", "--ckpt_path", "auto", "--trainer.max_steps", "6"]) == 0
    content = torch.load("after/debug/one/checkpoints/last.ckpt", weights_only=True)
    (state,) = [one for one in content["callbacks"].values() if "best_model_path" in one]
    assert state["best_model_path"] == str(tmp_path / "after/debug/one/checkpoints/best.ckpt")
    kept = torch.load("after/debug/one/checkpoints/best.ckpt", weights_only=True)
    assert content["global_step"] == 6 and kept["global_step"] == best["global_step"] == 2
    # and of a run that goes on without another validation the card keeps its scores
    more = ["--trainer.max_steps", "7", "--trainer.check_val_every_n_epoch", "9"]
    assert main(["fit", *words, "after", "--module.lr", "0", "--ckpt_path", "auto", *more]) == 0
    last = torch.load("after/debug/one/checkpoints/last.ckpt", weights_only=True)
    assert last["global_step"] == 7 and "val/dice_mean" in last["model_card"]["scores"]


@pytest.mark.slow
def test_a_fast_dev_run_needs_no_shorter_warm_up_and_leaves_no_checkpoint(
    brats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*DEBUG, "--data.root", str(brats), "--trainer.logger", "false", "--module.warmup_steps", "20"]
    assert main(["fit", *words, "--trainer.fast_dev_run", "true", "--trainer.max_steps", "100"]) == 0
    assert capsys.readouterr().out.endswith("trainer.fast_dev_run: no checkpoint is written\n")
    assert not Path("runs/debug").exists()  # nor a folder that `test` would take for the newest run's


def test_a_run_is_used_from_within_its_folder_and_through_a_link(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "runs/debug/one", tmp_path / "debug/one")
    data = ["--data.root", str(trained / "runs/phantom-cases"), "--data.prepared_dir", str(tmp_path / "prepared")]
    monkeypatch.chdir(tmp_path / "debug/one")
    for checkpoint in ([], ["--ckpt_path", "checkpoints/best.ckpt"]):
        shutil.rmtree("validate", ignore_errors=True)
        assert main(["validate", "-c=config.yaml", *data, *checkpoint]) == 0
        assert json.loads(Path("validate/cases.json").read_text())["name"] == "debug/one"
    monkeypatch.chdir(tmp_path)
    Path("latest").symlink_to("debug/one")
    resumed = ["--ckpt_path", "latest/checkpoints/last.ckpt", "--trainer.max_steps", "5", "--trainer.logger", "false"]
    assert main(["fit", "-clatest/config.yaml", *data, *resumed]) == 0
    assert torch.load("debug/one/checkpoints/last.ckpt", weights_only=True)["global_step"] == 5


def test_tables_of_ones_own_are_not_replaced(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    words = [*DEBUG, "--run.id", "one"]
    segment = ["segment", "--model", "runs/debug/one/checkpoints/best.ckpt", "--cases", "runs/phantom-cases"]
    written = {"cases.csv": ["test", *words], "cases.json": ["test", *words], "metrics.csv": ["validate", *words]}
    Path("own").mkdir(exist_ok=True)
    for text in ("patient,ml\n", "case,ml\nA,50\n"):
        for name, verb in [*written.items(), ("volumes.csv", ["predict", *words]), ("volumes.csv", segment)]:
            Path("own", name).write_text(text)
            assert main([*verb, "--out", "own"]) == 2
            assert f"error: own/{name}: exists and is no table of raum" in capsys.readouterr().err
            assert Path("own", name).read_text() == text
            Path("own", name).unlink()
    for name in written:  # which `predict` does not write
        Path("own", name).write_text("")
    before = Path("runs/debug/one/metrics.csv").read_text()
    assert main(["test", *words, "--out", "runs/debug/one"]) == 2
    assert "runs/debug/one: is the folder of a run" in capsys.readouterr().err
    assert Path("runs/debug/one/metrics.csv").read_text() == before
    for verb in (["predict", *words], ["test", *words]) * 2 + (segment,):  # its own, it does
        assert main([*verb, "--out", "own"]) == 0


def test_the_home_is_meant_by_its_sign(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    monkeypatch.setenv("HOME", str(tmp_path))
    words = [*DEBUG, "--run.root=~/runs", "--run.id", "home", "--trainer.logger", "false"]
    assert main(["fit", *words]) == 0
    assert main(["fit", *words, "--ckpt_path", "auto", "--trainer.max_steps", "5"]) == 0
    checkpoint = "~/runs/debug/home/checkpoints/best.ckpt"
    assert main(["validate", *words, f"--ckpt_path={checkpoint}", "--out=~/scores"]) == 0
    assert (tmp_path / "scores/cases.csv").is_file() and not Path("~").exists()


class Alone(SegmentationModule):
    """With no callbacks of the parent's."""

    def configure_callbacks(self) -> list[Any]:
        return []


def test_cases_that_trained_are_known_whatever_a_module_of_ones_own_leaves_out(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    words = [*DEBUG, "--module_class", f"{__name__}.Alone", "--run.id", "alone", "--trainer.logger", "false"]
    assert main(["fit", *words, "--trainer.max_steps", "1", "--trainer.limit_val_batches", "0"]) == 0
    assert main(["validate", *words, "--data.fold", "1"]) == 2
    assert "cases to be scored were used to train this checkpoint" in capsys.readouterr().err


def test_tools_know_the_home_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _, arguments = parse("export", ["--checkpoint=~/a.ckpt", "--out=~/b.onnx"])
    assert (arguments.checkpoint, arguments.out) == (tmp_path / "a.ckpt", tmp_path / "b.onnx")


def test_a_run_goes_on_with_the_cases_it_began_with(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained)
    ids = sorted(path.name for path in Path("runs/phantom-cases").iterdir() if path.is_dir())
    for name, (train, val) in {"a": (ids[:3], ids[3:4]), "b": (ids[3:5], ids[5:])}.items():
        Path(f"{name}.json").write_text(json.dumps({"train": train, "val": val}))
    words = [*DEBUG, "--run.id", "cases", "--trainer.logger", "false", "--trainer.max_steps"]
    assert main(["fit", *words, "2", "--data.splits", "a.json"]) == 0
    began = Path("runs/debug/cases/splits.json")
    kept = began.read_text()
    again = ["4", "--ckpt_path", "auto", "--data.splits"]
    assert main(["fit", *words, *again, "b.json"]) == 2
    assert "runs/debug/cases began with other cases: 3 train and now 2, of which" in capsys.readouterr().err
    assert began.read_text() == kept
    assert main(["fit", *words, *again, str(began)]) == 0


def test_a_run_that_has_moved_goes_on_where_it_lies(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained / "runs/debug/one", trained / "elsewhere/debug/moved")
    monkeypatch.chdir(trained)
    words = ["-c", "elsewhere/debug/moved/config.yaml", "--run.id", "moved", "--ckpt_path", "auto"]
    assert main(["fit", *words, "--trainer.logger", "false", "--trainer.max_steps", "5"]) == 0
    content = torch.load("elsewhere/debug/moved/checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] == 5 and not Path("runs/debug/moved").exists()
