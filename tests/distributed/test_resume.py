"""A run that is killed, preempted or sent away early and continued ends as if nothing had happened."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from raum_lightning.cli import main
from raum_lightning.datasets import presets
from raum_lightning.training.checkpoint_io import VerifiedCheckpointIO
from tests.helpers import EXPERIMENTS
from tests.helpers.cases import write_brats
from tests.helpers.ranks import rows, run, signal_at, splits, state

STEPS = 6  # two epochs of three, each validated
CSV = ["--trainer.logger", "raum_lightning.loggers.CSVLogger", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases, and the uninterrupted run, `whole`."""
    here = tmp_path_factory.mktemp("resume")
    for number in range(1, 6):
        write_brats(here / "cases", f"BraTS20_Training_{number:03d}", presets()["brats2020"], seed=number)
    splits(here / "splits.json", train=[1, 2, 3], val=[4, 5])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        assert main(words("whole")) == 0
    return here


def words(name: str, *more: str) -> list[str]:
    """`fit` of six steps, the same for every run."""
    fit = ["fit", "-c", str(EXPERIMENTS / "debug.yaml"), "--data.root", "cases", "--data.splits", "splits.json", *CSV]
    fit += ["--data.patches_per_epoch", "6", "--data.batch_size", "2", "--trainer.max_steps", str(STEPS)]
    return [*fit, "--run.experiment", "debug", "--run.id", name, *more]


def same(left: Any, right: Any) -> bool:
    """Whether two states hold the same, bit by bit."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, (list, tuple)):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


def assert_same_run(work: Path, name: str, whole: str = "whole") -> None:
    """Weights, optimiser, schedule and curves of a continued run are those of the uninterrupted one."""
    runs = work / "runs/debug"
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(state(runs / name)[key], state(runs / whole)[key]), key
    assert rows(runs / name) == rows(runs / whole)


# after the last but one step the signal may meet a run that is ending already
@pytest.mark.parametrize("step", range(1, STEPS - 1))
def test_a_signal_after_any_step(work: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.chdir(work)
    name = f"signal-{step}"
    job = step % 2 == 0
    if job:
        monkeypatch.setenv("SLURM_JOB_ID", "17")
        monkeypatch.setenv("SLURM_STEP_ID", "0")
    signum = signal.SIGTERM if job else signal.SIGUSR1
    with pytest.raises(SystemExit, match=str(128 + signum)):
        main(words(name, *signal_at(work, step, signum)))
    assert step <= state(work / "runs/debug" / name)["global_step"] < STEPS
    assert main(words(name, *([] if job else ["--ckpt_path", "auto"]))) == 0
    assert_same_run(work, name)


def test_a_trained_run_is_not_overwritten(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    assert main(words("whole")) == 2
    assert "runs/debug/whole holds a trained run; continue it with --ckpt_path auto" in capsys.readouterr().err


@pytest.mark.parametrize("step", [2, 5], ids=str)
def test_kill_minus_nine(work: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.chdir(work)
    name = f"killed-{step}"
    assert run(work, words(name, *signal_at(work, step, signal.SIGKILL))) == [-signal.SIGKILL]
    assert (work / "runs/debug" / name / "checkpoints/last.ckpt").exists() == (step > 3)
    assert rows(work / "runs/debug" / name)  # of steps that are taken again
    assert main(words(name, "--ckpt_path", "auto")) == 0
    assert_same_run(work, name)


def test_without_validation_epochs_end_with_a_checkpoint(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    assert main(words("unvalidated", *(never := ["--trainer.limit_val_batches", "0"]))) == 0
    assert run(work, words("killed", *never, *signal_at(work, 5, signal.SIGKILL))) == [-signal.SIGKILL]
    assert state(work / "runs/debug/killed")["global_step"] == 3
    assert main(words("killed", *never, "--ckpt_path", "auto")) == 0
    assert_same_run(work, "killed", "unvalidated")


@pytest.mark.parametrize("batches", [1, 2])
def test_a_signal_between_batches_of_one_step(work: Path, monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    monkeypatch.chdir(work)
    two = ["--data.batch_size", "1", "--trainer.accumulate_grad_batches", "2"]
    if not Path("runs/debug/accumulated").exists():  # the first of both in this process
        assert main(words("accumulated", *two)) == 0
    with pytest.raises(SystemExit):
        main(words(f"between-{batches}", *two, *signal_at(work, batches, signal.SIGTERM)))
    assert state(work / f"runs/debug/between-{batches}")["global_step"] == 1
    assert main(words(f"between-{batches}", *two, "--ckpt_path", "auto")) == 0
    assert_same_run(work, f"between-{batches}", "accumulated")


def test_no_validation_lies_between_batches_of_one_step(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    two = ["--data.batch_size", "1", "--trainer.accumulate_grad_batches", "2", "--trainer.max_steps", "1"]
    across = ["--trainer.check_val_every_n_epoch", "null"]
    odd = ["--data.patches_per_epoch", "5"]
    every = "--trainer.val_check_interval"
    for number, more in enumerate(([every, "3"], [every, "0.5"], [*across, every, "4", *odd], [every, "00:00:05:00"])):
        assert main(words(f"odd-{number}", *two, *more)) == 2
        assert "in the middle of a step of trainer.accumulate_grad_batches=2" in capsys.readouterr().err
    for number, more in enumerate(([every, "2"], [every, "0.34"], [*across, every, "4"], odd)):
        assert main(words(f"even-{number}", *two, *more)) == 0


def test_a_signal_after_an_epoch_of_one_step_without_validation(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    short = ["--data.patches_per_epoch", "2", "--trainer.check_val_every_n_epoch", "5"]
    assert main(words("short", *short)) == 0
    with pytest.raises(SystemExit, match=str(128 + signal.SIGTERM)):
        main(words("short-2", *short, *signal_at(work, 2, signal.SIGTERM)))
    assert state(work / "runs/debug/short-2")["global_step"] == 2
    assert main(words("short-2", *short, "--ckpt_path", "auto")) == 0
    assert_same_run(work, "short-2", "short")


def test_by_the_clock_a_run_has_another_length_at_every_moment(
    work: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of which nothing is said when it is resumed, but where it is much longer."""
    monkeypatch.chdir(work)
    timed = ["--trainer.max_steps", "-1", "--trainer.callbacks", "tests.helpers.ranks.StepClock"]
    stop = [*signal_at(work, 2, signal.SIGTERM)]
    with pytest.raises(SystemExit):
        main(words("timed", *stop, *timed[:2], "--trainer.callbacks+=tests.helpers.ranks.StepClock", *seconds(6)))
    for length, taken in ((6.2, 7), (12, 12)):
        caplog.clear()
        assert main(words("timed", *timed, *seconds(length), "--ckpt_path", "auto")) == 0
        assert state(work / "runs/debug/timed")["global_step"] == taken
        assert ("learning rate jumps" in caplog.text) == (length > 7)


def seconds(number: float) -> list[str]:
    """Of the `StepClock` that is given last."""
    return ["--trainer.callbacks.seconds", str(number)]


def test_batches_of_another_size_go_on_at_the_end_of_an_epoch_that_is_cut_short(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    short = ["--trainer.limit_train_batches", "2"]
    assert main(words("short-epochs", *short, "--trainer.max_steps", "2")) == 0
    one = ["--data.batch_size", "1", "--trainer.accumulate_grad_batches", "2", "--ckpt_path", "auto"]
    assert main(words("short-epochs", *short, "--trainer.max_steps", "3", *one)) == 0


def test_the_last_state_is_saved_however_bad(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    saved = []
    monkeypatch.setattr("lightning.pytorch.callbacks.ModelCheckpoint.check_monitor_top_k", lambda *unused: False)
    write = VerifiedCheckpointIO.save_checkpoint

    def watch(io: VerifiedCheckpointIO, checkpoint: dict[str, Any], path: str, storage_options: Any = None) -> None:
        saved.append((Path(path).name, checkpoint["global_step"]))
        write(io, checkpoint, path)

    monkeypatch.setattr(VerifiedCheckpointIO, "save_checkpoint", watch)
    assert main(words("bad")) == 0
    assert saved == [("last.ckpt", 3), ("last.ckpt", 6)]


def test_batches_of_another_size_do_not_go_on_in_mid_epoch(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(work)
    with pytest.raises(SystemExit):
        main(words("size", *signal_at(work, 2, signal.SIGTERM)))
    halves = ["--data.batch_size", "1", "--trainer.accumulate_grad_batches", "2"]
    assert main(words("size", "--ckpt_path", "auto", *halves)) == 2
    assert "in the middle of an epoch with 2 patches a batch over all ranks, now it is 1" in capsys.readouterr().err
    ended = ["--ckpt_path", "runs/debug/whole/checkpoints/last.ckpt", "--trainer.max_steps", str(STEPS + 1)]
    assert main(words("ended", *ended, *halves)) == 0


def test_a_restarted_job_goes_on_with_its_own(
    work: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(work)
    given = "runs/debug/whole/checkpoints/last.ckpt"
    longer = ["--ckpt_path", given, "--trainer.max_steps", str(STEPS + 3)]
    for count, taken, origin in (("0", STEPS + 1, given), ("1", STEPS + 2, given.replace("whole", "tuned"))):
        monkeypatch.setenv("SLURM_RESTART_COUNT", count)
        caplog.clear()
        with pytest.raises(SystemExit):
            main(words("tuned", *longer, *signal_at(work, taken, signal.SIGTERM)))
        assert f"Restored all states from the checkpoint at {origin}" in caplog.text
