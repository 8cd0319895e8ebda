"""Stops a run that is asked to, at a step's end, with a checkpoint from which it goes on exactly.

Lightning saves inside the signal handler: in the middle of a step, with the other ranks elsewhere in theirs. Here a
signal only sets a flag; ranks agree on it after every step, save together and leave before the next one.
"""

import os
import signal
import subprocess
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

REQUEUE = signal.SIGUSR1
STOP = signal.SIGTERM


class Preempted(SystemExit):
    """The run was asked to stop and can be continued."""


class LastCheckpoint(Checkpoint):
    """Saves the last state after every validation, when training ends, and when it is asked to end before.

    Where nothing is validated, after every epoch.

    Asked by SIGUSR1 (a SLURM job is short of time) or SIGTERM (a job is preempted, requeued or cancelled).
    SIGUSR1 within a SLURM job also asks SLURM to run the job again; what SIGTERM announces, SLURM does by itself.

    A `Checkpoint` because Lightning calls these last, when other callbacks are done with the step.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.received: signal.Signals | None = None
        self.leaving: signal.Signals | None = None
        self.saved_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the signals over from Lightning, which gives them back itself when the run ends."""
        for signum in (REQUEUE, STOP):
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(signum)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves; Lightning's `ModelCheckpoint(save_last=True)` would only where the score is a good one."""
        if not (trainer.sanity_checking or self._save_if_asked(trainer)):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves where nothing is validated."""
        if not trainer.enable_validation:
            self._save(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leaves, once the logs of the step that was saved are written."""
        if self.leaving:
            self._leave(trainer, self.leaving)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Saves after any step but an epoch's last, whose validation would be left out on going on."""
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and not trainer.is_last_batch:
            self._save_if_asked(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves where the last step was followed by no validation."""
        if trainer.global_step > self.saved_step:
            self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        self.saved_step = trainer.global_step
        trainer.save_checkpoint(self.checkpoint, weights_only=False)

    def _save_if_asked(self, trainer: pl.Trainer) -> bool:
        any_rank = partial(trainer.strategy.reduce_boolean_decision, all=False)
        if self.leaving or not any_rank(self.received is not None):
            return False
        self.leaving = REQUEUE if any_rank(self.received == REQUEUE) else STOP
        self._save(trainer)
        return True

    def _leave(self, trainer: pl.Trainer, asked: signal.Signals) -> None:
        # the others end with 0: a launcher would kill rank 0 for their sake while it still writes its logs
        if not trainer.is_global_zero:
            raise Preempted(0)
        print(f"{asked.name}: saved step {trainer.global_step} in {self.checkpoint}", flush=True)
        job = slurm_job()
        if job and asked == REQUEUE and not _requeue(job):
            print(f"job {job} could not be requeued; resubmit it with the same --run.id", flush=True)
        raise Preempted(128 + asked)


def slurm_job() -> str | None:
    """What `scontrol` calls this job: of an array, SLURM_JOB_ID may be the number of the whole."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _requeue(job: str) -> bool:
    try:
        return subprocess.call(["scontrol", "requeue", job]) == 0
    except OSError:  # no `scontrol` here, as in a container
        return False
