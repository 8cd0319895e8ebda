"""Jobs on a real SLURM that are requeued, run out of time or lose a rank, and end as if nothing had happened.

Run by `make cluster-test`, as root: munge and SLURM's daemons must be there.
"""

import csv
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raum_lightning.cli import main
from tests.cluster.slurm import Slurm, cluster, wait

REPOSITORY = Path(__file__).parents[2]
SCRIPT = str(REPOSITORY / "experiments/slurm/phantom_cpu.sbatch")
STEPS = 30


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A cluster, and in its folder the cases and what the job script expects beside it."""
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "experiments").symlink_to(REPOSITORY / "experiments")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["phantom", "runs/phantom-cases", "--cases", "6", "--shape", "48", "48", "40"]) == 0
    with cluster(folder) as running:
        running.environment["LIGHTNING"] = str(Path(sys.executable).parent / "lightning")
        running.environment["PYTHONPATH"] = f"{REPOSITORY}:{Path(__file__).parent}"
        running.environment["OMP_NUM_THREADS"] = "1"
        yield running


def fit(*more: str, seconds: float = 0) -> list[str]:
    """The job script's arguments: 30 steps in epochs of 8, validated every second."""
    words = ["-c", "experiments/debug.yaml", "--data.batch_size", "1", "--data.patches_per_epoch", "16"]
    words += ["--trainer.max_steps", str(STEPS), "--trainer.check_val_every_n_epoch", "2"]
    words += ["--trainer.enable_progress_bar", "false"]
    words += ["--trainer.callbacks", "slow.Slow", f"--trainer.callbacks.seconds={seconds}"]
    return [SCRIPT, *words, *more]


def run_of(slurm: Slurm, job: str) -> Path:
    return slurm.folder / f"runs/debug/slurm-{job}"


def rows(slurm: Slurm, job: str) -> list[dict[str, str]]:
    """The numbers a job has logged, but for those that tell the time."""
    path = run_of(slurm, job) / "metrics.csv"
    read = csv.DictReader(path.read_text().splitlines()) if path.exists() else []
    return [{name: value for name, value in row.items() if not name.startswith("perf/")} for row in read]


def steps(slurm: Slurm, job: str) -> int:
    """How many steps a job has logged."""
    return len({row["step"] for row in rows(slurm, job) if row.get("train/loss")})


def weights(slurm: Slurm, job: str) -> dict[str, torch.Tensor]:
    saved: dict[str, Any] = torch.load(run_of(slurm, job) / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == STEPS
    state: dict[str, torch.Tensor] = saved["state_dict"]
    return state


@pytest.fixture(scope="module")
def whole(slurm: Slurm) -> str:
    """The job that is left alone."""
    job = slurm.submit(*fit())
    assert slurm.wait(job, "COMPLETED", "FAILED") == "COMPLETED", slurm.output(job)
    return job


def assert_same_run(slurm: Slurm, job: str, whole: str) -> None:
    expected = weights(slurm, whole)
    assert all(torch.equal(weight, expected[name]) for name, weight in weights(slurm, job).items())
    assert rows(slurm, job) == rows(slurm, whole)


def test_two_nodes_train(slurm: Slurm, whole: str) -> None:
    said = slurm.output(whole)
    assert said.count("2 ranks") == 1 and said.count("best mean Dice") == 1
    assert steps(slurm, whole) == STEPS
    assert len(list(run_of(slurm, whole).glob("wandb/offline-run-*"))) == 1


def test_requeued_in_mid_epoch_beside_another_run(slurm: Slurm, whole: str) -> None:
    job = slurm.submit(*fit(seconds=1))
    wait(lambda: steps(slurm, job) >= 11, "steps")
    other = slurm.submit(*fit("--trainer.max_steps", "2"))
    slurm.call("scontrol", "requeue", job)
    assert slurm.wait(job, "COMPLETED", "FAILED") == "COMPLETED", slurm.output(job)
    assert "SIGTERM: saved step" in slurm.output(job) and "Restored all states" in slurm.output(job)
    assert_same_run(slurm, job, whole)
    parts = list(run_of(slurm, job).glob("wandb/offline-run-*"))
    assert len(parts) == 2 and all(part.name.endswith(f"-debug-slurm-{job}") for part in parts)

    assert slurm.wait(other, "COMPLETED", "FAILED") == "COMPLETED", slurm.output(other)
    assert "Restor" not in slurm.output(other)
    assert [int(row["step"]) for row in rows(slurm, other) if row["train/loss"]] == [0, 1]


def test_out_of_time(slurm: Slurm, whole: str) -> None:
    job = slurm.submit("--time=2", "--signal=SIGUSR1@45", *fit(seconds=5))
    wait(lambda: "SIGUSR1: saved step" in slurm.output(job), "a signal before the end of time", 180)
    assert slurm.wait(job, "COMPLETED", "FAILED") == "COMPLETED", slurm.output(job)
    assert_same_run(slurm, job, whole)


def test_a_rank_that_is_killed(slurm: Slurm, whole: str) -> None:
    job = slurm.submit(*fit(seconds=0.5))
    wait(lambda: steps(slurm, job) >= 20, "steps")
    os.kill(slurm.process(job, rank=1), signal.SIGKILL)
    assert slurm.wait(job, "FAILED", "COMPLETED", seconds=60) == "FAILED"
    assert "task 1: Killed" in slurm.output(job)
    again = slurm.submit(*fit(), RUN=f"slurm-{job}")
    assert slurm.wait(again, "COMPLETED", "FAILED") == "COMPLETED", slurm.output(again)
    assert_same_run(slurm, job, whole)


def test_the_folds_of_a_cross_validation_are_an_array(slurm: Slurm) -> None:
    words = [*fit()[1:], "--trainer.max_steps", "4", "--data.test_fraction", "0", "--folds", "2", "--slurm", SCRIPT]
    command = [sys.executable, "-m", "raum_lightning", "cross-validate", *words]
    started = subprocess.run(command, env=slurm.environment, cwd=slurm.folder, capture_output=True, text=True)
    assert started.returncode == 0, started.stderr
    said = started.stdout
    array, after = re.findall(r"job (\d+)", said)
    state = slurm.wait(after, "COMPLETED", "FAILED", "CANCELLED", seconds=420)
    assert state == "COMPLETED", slurm.output(after) + slurm.output(f"{array}_0")
    study = slurm.folder / "runs/debug/cv-2fold"
    assert len(list((study / "predictions").glob("*.nii.gz"))) == 6
    assert (study / "results.md").is_file() and (study / "ensemble.safetensors").is_file()
    for fold in (0, 1):
        saved = torch.load(study.with_name(f"cv-2fold-fold{fold}") / "checkpoints/last.ckpt", weights_only=True)
        assert saved["global_step"] == 4
        assert "2 ranks" in slurm.output(f"{array}_{fold}")
