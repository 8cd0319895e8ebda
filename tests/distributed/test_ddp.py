"""Two processes compute what one computes on the batch of both."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from tests.helpers import EXPERIMENTS
from tests.helpers.processes import output
from tests.helpers.ranks import rows, run, splits, state

STEPS = 4
CSV = "raum_lightning.loggers.CSVLogger"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of debug.yaml in double precision: `one` process with batches of 2, two `ranks` with batches of 1.

    Three validation cases: an odd number, so that the ranks do not have as many.
    """
    from raum_lightning.datasets import presets
    from tests.helpers.cases import write_brats

    here = tmp_path_factory.mktemp("ddp")
    for number in range(1, 7):
        write_brats(here / "cases", f"BraTS20_Training_{number:03d}", presets()["brats2020"], seed=number)
    words = ["fit", "-c", str(EXPERIMENTS / "debug.yaml"), "--data.root", "cases"]
    words += splits(here / "splits.json", train=[1, 2], val=[3, 4, 5], test=[6])
    words += ["--module.metrics", "[dice, lesion_dice]"]
    words += ["--trainer.precision", "64-true", "--trainer.max_steps", str(STEPS)]
    assert run(here, [*words, "--run.id", "one", "--data.batch_size", "2", "--trainer.logger", CSV]) == [0]
    ranks = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]
    command = [sys.executable, "-m", "raum_lightning", *words, *ranks, "--run.id", "ranks", "--data.batch_size", "1"]
    pipe, same = subprocess.PIPE, subprocess.STDOUT
    process = subprocess.Popen(command, cwd=here, stdout=pipe, stderr=same, text=True, start_new_session=True)
    (here / "output.txt").write_text(output(process))
    assert process.returncode == 0
    return here


def test_parameters_and_gradients_are_those_of_one_process(work: Path) -> None:
    one, ranks = (state(work / "runs/debug" / name) for name in ("one", "ranks"))
    assert one["global_step"] == ranks["global_step"] == STEPS
    assert one["state_dict"].keys() == ranks["state_dict"].keys()
    for name, weight in one["state_dict"].items():
        torch.testing.assert_close(ranks["state_dict"][name], weight, rtol=1e-7, atol=1e-9)
    # AdamW's moments are sums of the averaged gradients of all steps, and of their squares
    moments = [content["optimizer_states"][0]["state"] for content in (one, ranks)]
    for index, expected in moments[0].items():
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(moments[1][index][name], expected[name], rtol=1e-7, atol=1e-14)


def test_metrics_are_those_of_one_process(work: Path) -> None:
    one, ranks = (rows(work / "runs/debug" / name) for name in ("one", "ranks"))
    names = set(one[0]) - {"train/pseudo_dice"}  # a mean over ranks of a ratio
    assert {"train/loss", "val/loss", "val/dice_wt", "val/dice_mean", "val/lesion_dice_mean", "lr"} <= names
    assert len(one) == len(ranks)
    for ours, theirs in zip(ranks, one, strict=True):
        for name in names:
            assert bool(ours[name]) == bool(theirs[name])
            assert not ours[name] or float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-6), name


def test_one_folder_one_wandb_run_and_nothing_twice(work: Path) -> None:
    folder = work / "runs/debug/ranks"
    assert {path.name for path in (work / "runs/debug").iterdir()} == {"one", "ranks"}
    assert len(list(folder.glob("wandb/offline-run-*"))) == 1
    assert yaml.safe_load((folder / "config.yaml").read_text())["trainer"]["strategy"] == "ddp"
    said = (work / "output.txt").read_text()
    assert said.count("run  ") == 2  # at the start and at the end
    for words in (
        "network  ",
        "cases  ",
        "(1 per rank, 2 ranks",
        "best mean Dice",
        "W&B has no key",
        "time     ",
    ):
        assert said.count(words) == 1, words
    assert "rank: 1" not in said and "GLOBAL_RANK" not in said


def test_ranks_share_cases_even_where_there_are_fewer(work: Path) -> None:
    words = ["-c", str(EXPERIMENTS / "debug.yaml"), "--data.root", "cases", "--trainer.logger", "false"]
    words += ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.enable_progress_bar", "false"]
    words += ["--ckpt_path", "runs/debug/one/checkpoints/last.ckpt"]
    assert run(work, ["predict", *words, "--data.predict_root", "cases"], ranks=2) == [0, 0]
    assert len(list((work / "runs/debug/one/predictions").glob("*.nii.gz"))) == 6
    said = [(work / f"output-{rank}.txt").read_text() for rank in (0, 1)]
    assert said[0].count("segmentations:") == 1 and "segmentations:" not in said[1]

    assert run(work, ["validate", *words, *splits(work / "few.json", train=[1], val=[3])], ranks=2) == [0, 0]
    (case,) = csv.DictReader((work / "runs/debug/one/validate/cases.csv").read_text().splitlines())
    assert case["case"] == "BraTS20_Training_003"


def test_ranks_follow_the_clock_of_the_first(work: Path) -> None:
    """Where time alone ends a run, the learning rate falls with it: of other rates the weights would be others."""
    clock = {"class_path": "tests.helpers.ranks.StepClock", "init_args": {"seconds": STEPS}}
    (work / "clock.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [clock]}}))
    words = ["fit", "-c", str(EXPERIMENTS / "debug.yaml"), "-c", "clock.yaml", "--data.root", "cases"]
    words += ["--data.splits", "splits.json", "--trainer.precision", "64-true", "--trainer.logger", "false"]
    words += ["--trainer.max_steps", "-1", "--run.experiment", "debug"]
    ranks = ["--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.accelerator", "cpu"]
    assert run(work, [*words, "--run.id", "timed", "--data.batch_size", "2"]) == [0]
    assert run(work, [*words, *ranks, "--run.id", "timed-ranks", "--data.batch_size", "1"], ranks=2) == [0, 0]
    one, two = (state(work / "runs/debug" / name) for name in ("timed", "timed-ranks"))
    assert one["global_step"] == two["global_step"] == STEPS
    for name, weight in one["state_dict"].items():
        torch.testing.assert_close(two["state_dict"][name], weight, rtol=1e-7, atol=1e-9)
