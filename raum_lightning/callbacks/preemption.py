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


class SaveOnLeaving(Checkpoint):
    """Saves the last state when training ends, and when it is asked to end before.

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
        """Saves after a validation."""
        self._save_if_asked(trainer)

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
            trainer.save_checkpoint(self.checkpoint, weights_only=False)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Notes the step, whoever saves it."""
        self.saved_step = trainer.global_step

    def _save_if_asked(self, trainer: pl.Trainer) -> None:
        any_rank = partial(trainer.strategy.reduce_boolean_decision, all=False)
        if not self.leaving and any_rank(self.received is not None):
            self.leaving = REQUEUE if any_rank(self.received == REQUEUE) else STOP
            trainer.save_checkpoint(self.checkpoint, weights_only=False)

    def _leave(self, trainer: pl.Trainer, asked: signal.Signals) -> None:
        # the others end with 0: a launcher would kill rank 0 for their sake while it still writes its logs
        if not trainer.is_global_zero:
            raise Preempted(0)
        print(f"{asked.name}: saved step {trainer.global_step} in {self.checkpoint}", flush=True)
        job = os.environ.get("SLURM_JOB_ID")
        if job and asked == REQUEUE and subprocess.call(["scontrol", "requeue", job]):
            print(f"job {job} could not be requeued; resubmit it with the same --run.id", flush=True)
        raise Preempted(128 + asked)
