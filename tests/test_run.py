import os
from pathlib import Path

import pytest
import yaml

from raum_lightning.bases import with_bases
from raum_lightning.cli import main
from raum_lightning.run import RunError, find_checkpoint, new_id, restarts, run_of
from raum_lightning.trainer import lacks_bf16

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "RAUM_RUN_ID", "SLURM_JOB_ID", "SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)


def test_ranks_of_one_run_agree_on_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = new_id()
    assert new_id() != "" and os.environ["RAUM_RUN_ID"]
    monkeypatch.setenv("RAUM_RUN_ID", chosen)
    monkeypatch.setenv("LOCAL_RANK", "1")  # a child of Lightning's launcher
    assert new_id() == chosen


def test_a_requeued_job_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not restarts()
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    assert new_id() == "slurm-17" and restarts()
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert new_id() == "slurm-17"
    monkeypatch.setenv("SLURM_STEP_ID", "1")  # another srun of the same job
    assert new_id() == "slurm-17-1"


def test_runs_of_a_sweep_differ_within_one_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("WANDB_SWEEP_ID", "s")
    for run in ("abc", "def"):
        monkeypatch.setenv("WANDB_RUN_ID", run)
        assert new_id() == f"sweep-{run}"


def test_workers_that_torchrun_restarts_keep_their_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun's default, the same for all
    assert not restarts() and not new_id().startswith("torchrun")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "today")
    assert restarts() and new_id() == "torchrun-today"


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
    assert run_of(best) == tmp_path / "new"
    assert run_of(tmp_path / "somewhere" / "model.ckpt") == tmp_path / "somewhere"


@pytest.mark.parametrize(
    ("accelerator", "gpu", "native", "lacks"),
    [
        ("auto", True, False, True),
        ("auto", True, True, False),
        ("cpu", True, False, False),
        ("auto", False, False, False),
    ],
)
def test_bf16_is_left_where_the_gpu_has_none(
    monkeypatch: pytest.MonkeyPatch, accelerator: str, gpu: bool, native: bool, lacks: bool
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: native)
    assert lacks_bf16(accelerator) == lacks


def test_a_file_comes_after_its_bases(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("x: 1")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yaml").write_text("base: ../a.yaml")
    (tmp_path / "c.yaml").write_text("base: sub/b.yaml")
    a, b, c = (tmp_path / name for name in ("sub/../a.yaml", "sub/b.yaml", "c.yaml"))
    for words in (["fit", "-c", str(c), "--x", "2"], ["fit", f"--config={c}", "--x", "2"]):
        expected = ["fit", "--config", str(a), "--config", str(b), "--config", str(c), "--x", "2"]
        assert with_bases(words) == expected


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"none\.yaml: no such file, named with -c"):
        with_bases(["-c", str(tmp_path / "none.yaml")])
    (tmp_path / "a.yaml").write_text("base: b.yaml")
    with pytest.raises(RunError, match=r"b\.yaml: no such file, named as base by .*a\.yaml"):
        with_bases(["-c", str(tmp_path / "a.yaml")])
    (tmp_path / "b.yaml").write_text("base: a.yaml")
    with pytest.raises(RunError, match=r"a\.yaml: is its own base"):
        with_bases(["-c", str(tmp_path / "a.yaml")])
    (tmp_path / "b.yaml").write_text("x: [")
    with pytest.raises(RunError, match=r"b\.yaml: is not valid YAML"):
        with_bases(["-c", str(tmp_path / "a.yaml")])
