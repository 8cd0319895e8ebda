"""How a run ends and goes on: its last step is validated, and a step keeps its patches and its number in the logs."""

import csv
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from raum_lightning.cli import main
from raum_lightning.training.length import run_length
from tests.helpers import DEBUG
from tests.helpers.cases import write_brats_cases


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_brats_cases(tmp_path / "cases", 6)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(*more: str) -> int:
    """Train in the current folder, in epochs of two steps of two patches where nothing else is given."""
    words = ["fit", "-c", DEBUG, "--data.root", "cases", "--data.test_fraction", "0", "--run.id", "one"]
    words += ["--data.patches_per_epoch", "4", "--trainer.logger", "raum_lightning.loggers.CSVLogger"]
    return main([*words, *more])


def rows(column: str) -> list[tuple[int, str]]:
    """The steps at which something was logged, and what."""
    table = csv.DictReader(Path("runs/debug/one/metrics.csv").read_text().splitlines())
    return [(int(row["step"]), row[column]) for row in table if row[column]]


def saved(name: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(f"runs/debug/one/checkpoints/{name}.ckpt", weights_only=True)
    return content


@pytest.mark.slow
@pytest.mark.parametrize(
    ("length", "validated"),
    [
        (["max_steps", "3"], [2]),
        (["max_steps", "7"], [5, 6]),
        (["max_steps", "6"], [5]),
        (["max_steps", "-1", "--trainer.max_epochs", "4"], [5, 7]),
        (["max_steps", "3", "--trainer.min_epochs", "5"], [2]),
        (["max_steps", "-1", "--trainer.max_epochs", "4", "--trainer.min_steps", "20"], [5, 7]),
    ],
)
def test_the_last_step_is_validated(here: Path, length: list[str], validated: list[int]) -> None:
    assert fit("--trainer.check_val_every_n_epoch", "3", f"--trainer.{length[0]}", *length[1:]) == 0
    assert [step for step, _ in rows("val/dice_mean")] == validated
    assert saved("last")["global_step"] == validated[-1] + 1


@pytest.mark.slow
def test_what_goes_on_after_its_last_validation_logs_each_step_once(here: Path) -> None:
    many = ["--data.patches_per_epoch", "20", "--trainer.check_val_every_n_epoch", "2"]
    assert fit(*many, "--trainer.max_steps", "3") == 0
    assert fit(*many, "--trainer.max_steps", "6", "--ckpt_path", "auto") == 0
    assert [step for step, _ in rows("train/loss")] == list(range(6))
    assert [step for step, _ in rows("val/dice_mean")] == [2, 5]


@pytest.mark.slow
def test_a_step_keeps_its_patches(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--data.batch_size", "2", "--trainer.max_steps", "-1", "--trainer.max_epochs", "1") == 0
    on = ["--trainer.max_steps", "-1", "--trainer.max_epochs", "3", "--ckpt_path", "auto", "--data.batch_size", "1"]
    capsys.readouterr()
    assert fit(*on) == 2
    said = capsys.readouterr().err
    assert "its steps have 2 patches, now they would have 1 (data.batch_size 1 x 1 ranks x " in said
    assert fit(*on, "--trainer.accumulate_grad_batches", "2") == 0
    assert saved("last")["global_step"] == 6, "two of each epoch"
    assert [step for step, _ in rows("train/loss")] == list(range(6))
    assert saved("last")["optimizer_states"][0]["param_groups"][0]["lr"] < 0.1 * 1.5e-3


@pytest.mark.slow
def test_the_end_of_the_time_is_said_once(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    many = ["--data.patches_per_epoch", "4000", "--data.batch_size", "1", "--trainer.accumulate_grad_batches", "20"]
    assert fit(*many, "--trainer.max_steps", "-1", "--trainer.max_time", "00:00:00:01") == 0
    assert caplog.text.count("Time limit reached") == 1


@pytest.mark.slow
def test_a_schedule_of_accumulation_goes_on_in_the_middle_of_an_epoch(here: Path) -> None:
    # epochs of 4, 2 and 2 steps
    many = ["--data.batch_size", "1", "--trainer.max_epochs", "3", "--module.lr_scheduler", "ConstantLR"]
    many += ["--trainer.callbacks+=GradientAccumulationScheduler", "--trainer.callbacks.scheduling", "{0: 1, 1: 2}"]
    assert fit(*many, "--trainer.max_steps", "-1") == 0
    whole = saved("last")
    assert whole["global_step"] == 8
    Path("runs/debug/one").rename("runs/debug/whole")
    assert fit(*many, "--trainer.max_steps", "5") == 0
    assert fit(*many, "--trainer.max_steps", "-1", "--ckpt_path", "auto") == 0
    assert saved("last")["global_step"] == 8
    for name, weights in whole["state_dict"].items():
        assert torch.equal(saved("last")["state_dict"][name], weights), name


@pytest.mark.parametrize(
    ("scheduling", "options", "steps"),
    [
        ({0: 4, 1: 1}, {"max_epochs": 3, "max_steps": -1}, 3 + 10 + 10),
        ({0: 1, 2: 3}, {"max_epochs": 3, "max_steps": -1}, 10 + 10 + 4),
        ({0: 1, 2: 3}, {"max_epochs": 3, "max_steps": 15}, 15),
        ({0: 1, 2: 3}, {"max_epochs": -1, "max_steps": 15}, 15),
    ],
)
def test_steps_of_epochs_that_accumulate_differently(
    scheduling: dict[int, int], options: dict[str, int], steps: int
) -> None:
    trainer: Any = SimpleNamespace(
        callbacks=[GradientAccumulationScheduler(scheduling)],
        num_training_batches=10,
        estimated_stepping_batches=options["max_steps"],
        accumulate_grad_batches=scheduling[0],
        **options,
    )
    assert run_length(trainer) == steps
