"""Stops a run that is asked to, at a step's end, with a checkpoint from which it resumes exactly.

Lightning saves inside the signal handler: in the middle of a step, with the other ranks elsewhere in theirs. Here a
signal only sets a flag; ranks agree on it after every step, save together and leave before the next one. The verbs that
do not train have nothing to save and leave at once: what they write appears whole or not at all.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from types import FrameType
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_only

from raum_lightning.errors import ConfigError
from raum_lightning.runs.folder import RunFolder
from raum_lightning.signals import handled_by
from raum_lightning.training.length import accumulations

# Windows has no such signal
REQUEUE: signal.Signals | None = getattr(signal, "SIGUSR1", None)
STOP = signal.SIGTERM
CTRL_C = signal.SIGINT
SIGNALS = tuple(signum for signum in (REQUEUE, STOP, CTRL_C) if signum is not None)


class Preempted(SystemExit):
    """The run was asked to stop and can be resumed."""


@rank_zero_only
def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def leaving_on_signal() -> AbstractContextManager[None]:
    """Within the block, end the process at once, with 128 and the signal's number, where it is asked to stop."""
    return handled_by(leave)


def leave(signum: int, frame: FrameType | None) -> None:
    """Leave at once."""
    name = signal.Signals(signum).name
    _say(f"{name}: stopped; what was finished is kept, and the same command resumes")
    raise Preempted(128 + signum)


class LeaveOnSignal(pl.Callback):
    """Takes the signals over from Lightning, which ignores them while it validates, tests or predicts."""

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning."""
        for signum in (STOP, CTRL_C):
            signal.signal(signum, leave)

    on_test_start = on_validation_start = on_predict_start


class LastCheckpoint(Checkpoint):
    """Saves the last state after every validation, when training ends, and when it is asked to end before.

    Where nothing is validated, after every epoch.

    Asked by SIGUSR1 (a SLURM job is short of time), SIGTERM (a job is preempted, requeued or cancelled) or Ctrl-C, of
    which a second one stops at once. SIGUSR1 within a SLURM job also asks SLURM to run the job again; what SIGTERM
    announces, SLURM does by itself.

    A `Checkpoint` because Lightning calls these last, when other callbacks are done with the step.

    Args:
        run: Where it is kept.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.received: signal.Signals | None = None
        self.leaving: signal.Signals | None = None
        self.saved_step = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the signals over from Lightning, which gives them back itself when the run ends."""
        _check_validations(trainer)
        for signum in SIGNALS:
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if signum == CTRL_C:
            if self.received == CTRL_C:
                raise KeyboardInterrupt
            _say("\nCtrl-C: saving and stopping after this step or validation; press it again to stop at once")
        self.received = signal.Signals(signum)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save; Lightning's `ModelCheckpoint(save_last=True)` would only where the score is a good one."""
        if not (trainer.sanity_checking or self._save_if_asked(trainer)):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save where nothing is validated, and where it is asked to end in an epoch that was not."""
        if not trainer.enable_validation:
            self._save(trainer)
        elif self.saved_step != trainer.global_step:
            self._save_if_asked(trainer)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Leave, once the logs of the step that was saved are written."""
        if self.leaving:
            self.leave(trainer, self.leaving)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save after any step but an epoch's last, whose validation would be left out on resuming."""
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if stepped and not trainer.is_last_batch:
            self._save_if_asked(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save where the last step was followed by no validation."""
        if trainer.global_step > self.saved_step:
            self._save(trainer)

    @contextmanager
    def leaving_at_once(self, trainer: pl.Trainer, said: str) -> Iterator[None]:
        """Within the block, which has nothing to save, end with what is `said` where a signal comes or has come."""

        def end(signum: int, frame: FrameType | None = None) -> None:
            if trainer.is_global_zero:
                print(said, flush=True)
            self.leave(trainer, signal.Signals(signum))

        if trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            end(self.received or STOP)
        with handled_by(end, SIGNALS):
            yield

    def _save(self, trainer: pl.Trainer) -> None:
        self.saved_step = trainer.global_step
        if not getattr(trainer, "fast_dev_run", False):  # as Lightning's own
            trainer.save_checkpoint(self.run.last, weights_only=False)

    def _save_if_asked(self, trainer: pl.Trainer) -> bool:
        any_rank = partial(trainer.strategy.reduce_boolean_decision, all=False)
        if self.leaving or not any_rank(self.received is not None):
            return False
        asked = [signum for signum in SIGNALS if any_rank(self.received == signum)]
        self.leaving = asked[0]
        self._save(trainer)
        return True

    def leave(self, trainer: pl.Trainer, asked: signal.Signals) -> None:
        """End this process, once the last state is saved, and say how to resume."""
        # the others end with 0: a launcher would kill rank 0 for their sake while it still writes its logs
        if not trainer.is_global_zero:
            raise Preempted(0)
        print(f"{asked.name}: saved step {trainer.global_step} in {self.run.last}; this resumes it:", flush=True)
        words = ["-c", str(self.run.config), "--run.id", self.run.path.name, "--ckpt_path", "auto"]
        print(f"  {shlex.join(['lightning', 'fit', *words])}", flush=True)
        job = slurm_job()
        if job and asked == REQUEUE and not _requeue(job):
            print(f"job {job} could not be requeued; resubmit it with the same --run.id", flush=True)
        raise Preempted(128 + asked)


def _check_validations(trainer: pl.Trainer) -> None:
    """Raise `ConfigError` where a validation, after which is saved, would lie between the batches of one step.

    The gradients of those before it are in no checkpoint.
    """
    if trainer.enable_validation:
        for parts in accumulations(trainer):
            _check_between(trainer, parts)


def _check_between(trainer: pl.Trainer, parts: int) -> None:
    every = trainer.val_check_batch
    if parts == 1:
        return
    if trainer.check_val_every_n_epoch is None:  # batches are counted over all epochs, each of which ends with a step
        between = every is None or every % parts or trainer.num_training_batches % parts
    else:
        between = every is None or (every < trainer.num_training_batches and every % parts)
    if between:
        interval = "by time" if every is None else f"every {every} batches"
        raise ConfigError(
            f"trainer.val_check_interval validates {interval}, which may be in the middle of a step of "
            f"trainer.accumulate_grad_batches={parts}, and a run that is resumed from there would lose half of it: "
            f"give a multiple of {parts} batches, in epochs of such a multiple, or leave it out"
        )


def slurm_job() -> str | None:
    """Return the job id for `scontrol`: of an array, SLURM_JOB_ID may be the number of the whole."""
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _requeue(job: str) -> bool:
    try:
        return subprocess.call(["scontrol", "requeue", job]) == 0
    except OSError:  # no `scontrol` here, as in a container
        return False
