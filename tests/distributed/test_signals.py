"""Signals as a cluster and a terminal send them: to the process and all its workers at once."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from raum_lightning.datasets import presets
from tests.helpers import DEBUG, ROOT
from tests.helpers.cases import write_brats
from tests.helpers.processes import output
from tests.helpers.ranks import run, splits, state

# the steps of a run that is to be stopped are held up here until the signal has come
WAITING = """
import sys, time
from pathlib import Path
from raum_lightning.cli import main
from raum_lightning.module import SegmentationModule as Module

def waiting(step):
    def wait(self, batch, index):
        Path("began").touch()
        time.sleep(0.2)
        return step(self, batch, index)
    return wait
for name in ("training_step", "predict_step"):
    setattr(Module, name, waiting(getattr(Module, name)))
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    here = tmp_path_factory.mktemp("signals")
    for number in range(1, 6):
        write_brats(here / "cases", f"BraTS20_Training_{number:03d}", presets()["brats2020"], seed=number)
    splits(here / "splits.json", train=[1, 2], val=[3], test=[4, 5])
    return here


def words(verb: str, name: str, *more: str) -> list[str]:
    common = [verb, "-c", DEBUG, "--data.root", "cases", "--data.splits", "splits.json", "--trainer.logger", "false"]
    return [*common, "--run.experiment", "debug", "--run.id", name, "--data.num_workers", "1", *more]


def start(work: Path, command: Sequence[str]) -> subprocess.Popen[str]:
    """A process group of its own whose first step has begun."""
    (work / "began").unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, *command],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while not (work / "began").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda signum: signum.name)
def test_a_signal_to_all_processes_saves_and_the_command_shown_resumes(work: Path, signum: signal.Signals) -> None:
    long = ["--trainer.max_steps", "2000", "--data.patches_per_epoch", "4000", "--trainer.enable_progress_bar", "false"]
    process = start(work, words("fit", signum.name, *long))
    second = subprocess.run(
        [sys.executable, "-m", "raum_lightning", *words("fit", signum.name, *long)],
        cwd=work,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    ) if signum == signal.SIGTERM else None  # fmt: skip
    os.killpg(process.pid, signum)
    said = output(process)
    assert process.returncode == 128 + signum, said
    if second:
        assert second.returncode == 2 and f"process {process.pid} on " in second.stderr, second.stderr
    step = state(work / "runs/debug" / signum.name)["global_step"]
    assert f"{signum.name}: saved step {step} in " in said and "memory" not in said and "Traceback" not in said
    (command,) = re.findall(r"^  lightning (fit .*)$", said, re.MULTILINE)
    config = work / "runs/debug" / signum.name / "config.yaml"
    assert command == f"fit -c {config.relative_to(work)} --run.id {signum.name} --ckpt_path auto"
    assert yaml.safe_load(config.read_text())["trainer"]["max_steps"] == 2000


def test_a_signal_to_predict_keeps_what_is_finished(work: Path) -> None:
    train = words("fit", "trained", "--trainer.max_steps", "1", "--data.num_workers", "0")
    assert run(work, train) == [0]
    process = start(work, words("predict", "trained"))
    os.killpg(process.pid, signal.SIGTERM)
    said = output(process)
    assert process.returncode == 128 + signal.SIGTERM, said
    assert "SIGTERM: stopped; what was finished is kept" in said and "Traceback" not in said
    folder = work / "runs/debug/trained/predictions"
    assert not folder.exists() or all(path.name.startswith("BraTS20") for path in folder.iterdir())
