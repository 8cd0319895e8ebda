"""Names of runs, and whether a process that starts resumes an interrupted one."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from raum_lightning.cases.ids import printable
from raum_lightning.errors import ConfigError, RunError

# of SLURM, in slurm.h: higher numbers are no step of an `srun` but the batch script, an interactive shell and such
LAST_STEP = 0xFFFFFFF0


@dataclass(frozen=True)
class RunOptions:
    """Names the folder of a run: `root`/`experiment`/`id`.

    Args:
        root: Folder of all runs.
        experiment: The name of the configuration file where not given.
        id: From W&B's sweep, the SLURM job, torchrun or the time where not given; with `--ckpt_path auto` the run is
            resumed if there is one of this name. Under `srun` and torchrun that is the default. The other verbs than
            `fit` look for their checkpoint in it.
        keep: How many of the best checkpoints. Of more than one, each has the step in its name, and best.ckpt is a link
            to the best of them.

    Raises:
        ConfigError: `keep` is less than 1, or a name is not one component of a path.
    """

    root: Path = Path("runs")
    experiment: str | None = None
    id: str | None = None
    keep: int = 1

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ConfigError(f"run.keep={self.keep} must be at least 1: so many of the best checkpoints are kept")
        check_names(self.experiment, self.id)


def check_names(experiment: str | None, run_id: str | None) -> None:
    """Raise `ConfigError` where a name that is given is not one component of a path."""
    for key, name in (("experiment", experiment), ("id", run_id)):
        if name is not None and not _is_component(name):
            raise ConfigError(f"run.{key}={printable(name)!r} becomes a folder below run.root: give one plain name")


def _is_component(name: str) -> bool:
    return name not in ("", ".", "..") and not {"/", "\\"} & {*name} and printable(name) == name


def restarts() -> bool:
    """Return whether this process is of a kind that is started again under the same name: of `srun` or torchrun."""
    return _step() is not None or "TORCHELASTIC_RUN_ID" in os.environ or restarted()


def restarted() -> bool:
    """Return whether it has been, so that what this run has saved since counts more than a checkpoint it was given."""
    return any(os.environ.get(f"{name}_RESTART_COUNT", "0") != "0" for name in ("SLURM", "TORCHELASTIC"))


def new_id(experiment: Path) -> str:
    """Return a name for a run that starts now, the same on all ranks: of the sweep, SLURM job, torchrun, or the time.

    A second `srun` of a job is another run. The time is followed by a number where the folder `experiment` has a run of
    that second already; the folder of the new one is made at once, so that no other process takes its name. Children of
    Lightning's own launcher find their parent's choice in RAUM_RUN_ID. Raises `RunError` under a torchrun that has no
    name of its own.
    """
    if (chosen := given_id()) is None:
        chosen = _reserve(experiment, time.strftime("%Y%m%d-%H%M%S"))
    os.environ["RAUM_RUN_ID"] = chosen
    return chosen


def given_id() -> str | None:
    """Return the name that the environment gives a run that starts now; None where the time is to name it."""
    if "LOCAL_RANK" in os.environ and "RAUM_RUN_ID" in os.environ:
        return os.environ["RAUM_RUN_ID"]
    if {
        "WANDB_SWEEP_ID",
        "WANDB_RUN_ID",
    } <= os.environ.keys():  # an agent's, which in a job starts several
        return f"sweep-{os.environ['WANDB_RUN_ID']}"
    if job := os.environ.get("SLURM_JOB_ID"):
        step = _step() or "0"  # begins at 0 again when the job is requeued
        return f"slurm-{job}" if step == "0" else f"slurm-{job}-{step}"
    rendezvous = os.environ.get("TORCHELASTIC_RUN_ID")
    if rendezvous == "none":  # torchrun's default, the same for all
        raise RunError("torchrun gives its workers no name by which to find their run again: give --run.id")
    return f"torchrun-{rendezvous}" if rendezvous else None


def _step() -> str | None:
    """Return the number of the `srun` that started this process, within its SLURM job."""
    step = os.environ.get("SLURM_STEP_ID")
    return step if step and int(step) <= LAST_STEP else None


def _reserve(experiment: Path, name: str) -> str:
    for number in count(1):
        chosen = name if number == 1 else f"{name}-{number}"
        with suppress(FileExistsError):
            (experiment / chosen).mkdir(parents=True)
            return chosen
    raise AssertionError
