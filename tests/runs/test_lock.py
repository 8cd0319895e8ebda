"""Who may train in the folder of a run."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from raum_lightning.errors import OutputError, RunError
from raum_lightning.runs.folder import RunFolder
from raum_lightning.runs.lock import locked

HOST = socket.gethostname()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return RunFolder(tmp_path)


def test_the_lock_lasts_as_long_as_the_block(run: RunFolder) -> None:
    with pytest.raises(KeyError), locked(run):
        assert run.lock.read_text() == f"{HOST} {os.getpid()} -"
        raise KeyError
    assert not run.lock.exists()


# the last but one: of this job and this start of it, as where a script starts two at once
@pytest.mark.parametrize("holder", [f"{HOST} 1 -", "elsewhere 5 -", "elsewhere 5 17", f"{HOST} 1 18:0", ""])
def test_another_process_is_refused(run: RunFolder, holder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "18")
    run.lock.write_text(holder)
    with (
        pytest.raises(RunError, match=r"process \d on .* is training in this folder; wait"),
        locked(run),
    ):
        pass
    assert run.lock.read_text() == holder


def test_a_dead_process_and_an_earlier_start_of_the_same_job_are_taken_over(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    run.lock.write_text(f"{HOST} {dead.pid} -")
    with locked(run):
        assert str(os.getpid()) in run.lock.read_text()
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    for before in ("17", "17:0"):
        run.lock.write_text(f"elsewhere 5 {before}")
        with locked(run):
            assert run.lock.read_text() == f"{HOST} {os.getpid()} 17:1"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(OutputError, match=r"file: is a file where a folder is expected"),
        locked(RunFolder(tmp_path / "file/run")),
    ):
        pass
