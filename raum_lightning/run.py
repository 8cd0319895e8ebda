"""Where a run lies on disk: `<root>/<experiment>/<id>/` with its configuration, checkpoints and numbers.

config.yaml          everything the run was given, and `-c` for running it again
splits.json          the cases that train, validate and test
metrics.csv          losses, learning rate and Dice by step
checkpoints/         best.ckpt (mean Dice of WT, TC, ET), last.ckpt and the one before it, previous.ckpt
wandb/               offline runs and W&B's own files
validate/ test/      numbers and tables of the other verbs
predictions/         segmentations
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

CHECKPOINTS = "checkpoints"


class RunError(ValueError):
    """The run that was asked for is not there."""


@dataclass(frozen=True)
class RunOptions:
    """Names the folder of a run: `root`/`experiment`/`id`.

    Args:
        root: Folder of all runs.
        experiment: The name of the configuration file where not given.
        id: From W&B's sweep, the SLURM job, torchrun or the time where not given; with `--ckpt_path auto` the run goes
            on if there is one of this name. In SLURM jobs and under torchrun that is the default.
    """

    root: Path = Path("runs")
    experiment: str | None = None
    id: str | None = None


def restarts() -> bool:
    """Whether this process is of a kind that is started anew with the same name: a SLURM job, torchrun's workers."""
    return "SLURM_JOB_ID" in os.environ or os.environ.get("TORCHELASTIC_RUN_ID", "none") != "none"


def restarted() -> bool:
    """Whether it has been, so that what this run has saved since counts more than a checkpoint it was given."""
    return any(os.environ.get(f"{name}_RESTART_COUNT", "0") != "0" for name in ("SLURM", "TORCHELASTIC"))


def new_id() -> str:
    """A name for a run that starts now, the same on all its ranks: of the sweep, the SLURM job, torchrun, or the time.

    A second `srun` of a job is another run. Children of Lightning's own launcher find their parent's choice in
    RAUM_RUN_ID.
    """
    if "LOCAL_RANK" in os.environ and "RAUM_RUN_ID" in os.environ:
        return os.environ["RAUM_RUN_ID"]
    if "WANDB_SWEEP_ID" in os.environ:  # before the job, in which an agent starts one run after the other
        chosen = f"sweep-{os.environ['WANDB_RUN_ID']}"
    elif job := os.environ.get("SLURM_JOB_ID"):
        step = os.environ.get("SLURM_STEP_ID", "0")  # begins at 0 again when the job is requeued
        chosen = f"slurm-{job}" if step == "0" else f"slurm-{job}-{step}"
    elif (rendezvous := os.environ.get("TORCHELASTIC_RUN_ID", "none")) != "none":
        chosen = f"torchrun-{rendezvous}"
    else:
        chosen = time.strftime("%Y%m%d-%H%M%S")
    os.environ["RAUM_RUN_ID"] = chosen
    return chosen


def run_of(checkpoint: Path) -> Path:
    """The folder of the run that a checkpoint belongs to, or the checkpoint's own folder when it lies in no run."""
    folder = checkpoint.parent
    return folder.parent if folder.name == CHECKPOINTS else folder


def find_checkpoint(experiment: Path, wanted: str | None) -> Path:
    """A checkpoint of the newest run in the folder `experiment`: `wanted` "best" or "last", or best if there is one.

    Raises `RunError` when no run has it.
    """
    runs = sorted((run for run in experiment.glob("*/") if (run / CHECKPOINTS).is_dir()), key=_started, reverse=True)
    for run in runs:
        for name in [wanted] if wanted else ["best", "last"]:
            if (path := run / CHECKPOINTS / f"{name}.ckpt").is_file():
                return path
    raise RunError(
        f"no {wanted or 'best or last'}.ckpt in {experiment}/*/{CHECKPOINTS}; "
        "run `lightning fit` first or name a checkpoint with --ckpt_path"
    )


def _started(run: Path) -> float:
    config = run / "config.yaml"
    return config.stat().st_mtime if config.exists() else run.stat().st_mtime
