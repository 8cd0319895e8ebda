import os
import subprocess
from pathlib import Path

import pytest
import yaml

from raum_lightning.cli import main
from raum_lightning.cli.run_plan import lacks_bf16
from raum_lightning.errors import ConfigError, RunError
from raum_lightning.runs.folder import RunFolder, find_checkpoint
from raum_lightning.runs.naming import RunOptions, new_id, restarts
from raum_lightning.training.callbacks.preemption import slurm_job
from tests.helpers import ROOT


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("SLURM_", "TORCHELASTIC_", "WANDB_")) or name in ("LOCAL_RANK", "RAUM_RUN_ID"):
            monkeypatch.delenv(name)


def test_ranks_of_one_run_agree_on_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = new_id(tmp_path)
    assert os.environ["RAUM_RUN_ID"] == chosen
    monkeypatch.setenv("LOCAL_RANK", "1")  # a child of Lightning's launcher
    assert new_id(tmp_path) == chosen


def test_runs_that_start_in_one_second_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.strftime", lambda pattern: "20260102-030405")
    assert [new_id(tmp_path) for _ in range(3)] == ["20260102-030405", "20260102-030405-2", "20260102-030405-3"]


def test_a_requeued_job_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not restarts()
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert new_id(tmp_path) == "slurm-17" and restarts()
    monkeypatch.setenv("SLURM_STEP_ID", "1")  # another srun of the same job
    assert new_id(tmp_path) == "slurm-17-1"


@pytest.mark.parametrize("step", [None, "4294967290"], ids=["batch script", "interactive shell"])
def test_what_srun_has_not_started_continues_only_what_was_requeued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str | None
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    if step:
        monkeypatch.setenv("SLURM_STEP_ID", step)
    assert new_id(tmp_path) == "slurm-17" and not restarts()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert new_id(tmp_path) == "slurm-17" and restarts()


def test_a_task_of_an_array_is_requeued_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slurm_job() is None
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert slurm_job() == "17"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "17")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert slurm_job() == "17_3"


@pytest.mark.parametrize("script", ["unetr", "phantom_cpu"])
@pytest.mark.parametrize("cpus", [None, "8"])
def test_job_scripts(tmp_path: Path, script: str, cpus: str | None) -> None:
    (tmp_path / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    job = {"SLURM_NTASKS_PER_NODE": "8", "SLURM_NNODES": "4"} | ({"SLURM_CPUS_PER_TASK": cpus} if cpus else {})
    command = ["bash", str(ROOT / f"experiments/slurm/{script}.sbatch"), "--module.lr", "1"]
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **job}
    words = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    # srun does not take it from the job
    assert [word for word in words if word.startswith("--cpus-per-task")] == (
        [f"--cpus-per-task={cpus}"] if cpus else []
    )
    assert words[-2:] == ["--module.lr", "1"]
    if script == "unetr":
        assert words[words.index("--data.patches_per_epoch") + 1] == str(32 * 240)


def test_runs_of_a_sweep_differ_within_one_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    for run in ("abc", "def"):
        monkeypatch.setenv("WANDB_RUN_ID", run)
        assert new_id(tmp_path) == f"sweep-{run}"
    monkeypatch.delenv("WANDB_RUN_ID")  # the sweep's name alone is set for an agent that is still to start
    assert new_id(tmp_path) == "slurm-17"


def test_workers_that_torchrun_restarts_keep_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun's default, the same for all
    assert restarts()
    with pytest.raises(RunError, match=r"no name .*: give --run\.id"):
        new_id(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "today")
    assert restarts() and new_id(tmp_path) == "torchrun-today"


@pytest.mark.slow
def test_an_agent_can_run_the_sweep(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sweep = yaml.safe_load(Path("experiments/sweeps/unetr.yaml").read_text())
    chosen = {
        name: each["value"] if "value" in each else each["values"][0] if "values" in each else each["min"]
        for name, each in sweep["parameters"].items()
    }
    env, program, *command, args = sweep["command"]
    assert (env, program, args) == ("${env}", "lightning", "${args}")
    with pytest.raises(SystemExit, match="0"):
        main([*command, *(f"--{name}={value}" for name, value in chosen.items()), "--print_config"])
    config = yaml.safe_load(capsys.readouterr().out)
    for name, value in chosen.items():
        found = config
        for key in name.split("."):
            found = found[key]
        assert found == value, name


def checkpoint(folder: Path, run: str, name: str, started: float) -> Path:
    path = folder / run / "checkpoints" / f"{name}.ckpt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    config = folder / run / "config.yaml"
    config.touch()
    os.utime(config, (started, started))
    return path


def test_the_newest_run_is_taken_and_best_before_last(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no best or last\.ckpt .* run `lightning fit` first"):
        find_checkpoint(tmp_path, None)
    old = checkpoint(tmp_path, "old", "best", 1)
    last = checkpoint(tmp_path, "new", "last", 2)
    assert find_checkpoint(tmp_path, None) == last
    assert find_checkpoint(tmp_path, "best") == old
    best = checkpoint(tmp_path, "new", "best", 2)
    assert find_checkpoint(tmp_path, None) == best
    of_file = RunFolder.of_file
    assert of_file(best) == of_file(tmp_path / "new/config.yaml") == RunFolder(tmp_path / "new")
    assert of_file(tmp_path / "somewhere/model.ckpt") is of_file(tmp_path / "somewhere/config.yaml") is None
    assert find_checkpoint(tmp_path, None, tmp_path / "old") == old
    with pytest.raises(RunError, match=r"no last\.ckpt in .*old/checkpoints; run `lightning fit` first"):
        find_checkpoint(tmp_path, "last", tmp_path / "old")


@pytest.mark.parametrize(
    ("accelerator", "gpu", "native", "lacks"),
    [
        ("auto", True, False, "GPU"),
        ("auto", True, True, None),
        ("cpu", True, False, "CPU"),
        ("auto", False, False, "CPU"),
    ],
)
def test_bf16_is_left_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, gpu: bool, native: bool, lacks: str | None
) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"architecture": "x86_64"}, raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: native)
    assert lacks_bf16(accelerator) == lacks


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", "", "a\x1b[2J", "a\nb", "a\\b"])
def test_a_name_of_a_run_is_one_folder_below_the_root(name: str) -> None:
    for key in ("id", "experiment"):
        with pytest.raises(ConfigError, match=rf"run\.{key}=.* becomes a folder below run\.root"):
            RunOptions(**{key: name})
    assert RunOptions(id="cv-a.b_2", experiment="x 1").id == "cv-a.b_2"
