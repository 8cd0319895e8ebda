"""The folds of a cross-validation, each a `raum fit` in a process of its own, several at a time where asked."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import torch

from raum_lightning.atomic import write_json
from raum_lightning.errors import RunError
from raum_lightning.json_files import read_json
from raum_lightning.machine import usable_cores
from raum_lightning.runs.checkpoints import seconds_trained, structure
from raum_lightning.runs.lock import holder
from raum_lightning.studies.study import Study

POLL = 0.2  # seconds


class Job(Protocol):
    """A fold that trains."""

    peak_mb: float

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""

    def stop(self) -> None:
        """Let it save a checkpoint and end; return when it has."""


# words after `raum`, environment, and the file for what it prints (None: the terminal)
Start = Callable[[Sequence[str], Mapping[str, str], Path | None], Job]


class Process:
    """A `raum` in a process of its own."""

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], log: Path | None) -> None:
        output: IO[str] | None = log.open("a") if log else None
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "raum_lightning", *words],
                env=os.environ | environment,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
            )
        finally:
            if output:
                output.close()
        self.peak_mb = 0.0

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._wait(os.WNOHANG)

    def stop(self) -> None:
        """Let it save a checkpoint and end; return when it has."""
        if self.process.returncode is None:
            self.process.terminate()
            self._wait(0)

    def _wait(self, options: int) -> int | None:
        if self.process.returncode is None:
            ended, status, usage = os.wait4(self.process.pid, options)
            if not ended:
                return None
            self.process.returncode = os.waitstatus_to_exitcode(status)
            # kB, but bytes on macOS
            self.peak_mb = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
        return self.process.returncode


def train_folds(
    study: Study, *, parallel: int = 1, start: Start | None = None, say: Callable[[str], None] = print
) -> None:
    """Train every fold that is not finished, `parallel` at a time; what was interrupted is resumed.

    `start` is `Process` where not given.

    Raises:
        RunError: The data have changed, or a fold failed: no further one is begun then, and those that run are waited
            for.
    """
    start = start or Process
    waiting = [fold for fold in range(len(study.splits)) if not is_finished(study, fold)]
    if done := len(study.splits) - len(waiting):
        say(f"{done} of {len(study.splits)} folds are trained already")
    running: dict[int, Job] = {}
    slots: dict[int, int] = {}
    failed: dict[int, int] = {}
    try:
        while running or (waiting and not failed):
            while waiting and not failed and len(running) < parallel:
                fold = waiting.pop(0)
                study.check_data()
                _await_other(study, fold, say)
                slots[fold] = next(slot for slot in range(parallel) if slot not in [slots[other] for other in running])
                log = study.folder.log(fold) if parallel > 1 else None
                say(f"fold {fold}: {study.folder.run(fold).path}" + (f", prints to {log}" if log else ""))
                _end_killed(study, fold)
                note(study, fold, started=time.time())
                environment = _share(slots[fold], parallel) | environment_of(study)
                running[fold] = start(fit_words(study, fold), environment, log)
            for fold, job in list(running.items()):
                if (code := job.poll()) is not None:
                    del running[fold]
                    note(study, fold, ended=time.time(), code=code, peak_mb=job.peak_mb)
                    failed |= {fold: code} if code else {}
            time.sleep(POLL if running else 0)
    finally:
        for fold, job in running.items():
            job.stop()
            note(study, fold, ended=time.time(), peak_mb=job.peak_mb)
    if failed:
        fold, code = next(iter(failed.items()))
        where = f"see {study.folder.log(fold)}" if parallel > 1 else "its message stands above"
        raise RunError(f"fold {fold} ended with exit code {code}, {where}; the same command continues from here")


def accept_folds(study: Study, say: Callable[[str], None] = print) -> None:
    """Take every fold as it is; raise `RunError` for one that has no checkpoint.

    One that has not trained to its end is said, and is trained on by a later call without `--trained`.
    """
    for fold in range(len(study.splits)):
        if not study.folder.checkpoint(fold).exists():
            raise RunError(f"fold {fold}: no checkpoint in {study.folder.run(fold).checkpoints}; train it first")
        if is_finished(study, fold):
            continue
        done, wanted, unit = _progress(study, fold)
        if not 0 < wanted <= done:
            say(f"fold {fold} has trained {done} of {wanted if wanted > 0 else 'endless'} {unit}")
        else:
            note(study, fold, **({} if training_of(study, fold) else {"started": time.time()}), code=0)


def _progress(study: Study, fold: int) -> tuple[int, int, str]:
    """Return how far a fold has trained, how far it is to train, and whether these are steps, epochs or seconds.

    A fold without last.ckpt, from which it could be resumed, counts as trained to its end.
    """
    from lightning.pytorch.callbacks import Timer  # which takes seconds

    trainer, last = study.config["trainer"], study.folder.run(fold).last
    by_steps = (trainer.get("max_steps") or -1) > 0
    seconds = Timer(trainer.get("max_time")).time_remaining()
    wanted = trainer.get("max_steps" if by_steps else "max_epochs")
    wanted = 1000 if wanted is None else wanted  # Lightning's default
    if not last.exists():
        return abs(wanted), abs(wanted), "steps"
    saved = structure(last)
    if by_steps:
        return saved["global_step"], wanted, "steps"
    if seconds and (trainer.get("max_epochs") or -1) < 0:
        return round(seconds_trained(saved)), round(seconds), "seconds"
    loop = saved["loops"]["fit_loop"]
    epochs = loop["epoch_progress"]["current"]
    # of the last epoch the state may have been saved in its validation, when all its batches were trained
    whole = loop["epoch_loop.batch_progress"]["is_last_batch"]
    return epochs["started" if whole else "processed"], wanted, "epochs"


def fit_words(study: Study, fold: int) -> list[str]:
    """Return the command line that trains or resumes a fold, without `raum`."""
    run = study.folder.run(fold).path
    named = ["--run.root", str(run.parent.parent), "--run.experiment", run.parent.name, "--run.id", run.name]
    split = ["--data.splits", str(study.folder.splits), "--data.fold", str(fold)]
    folds = ["--data.folds", str(max(2, len(study.splits)))]
    return ["fit", "-c", str(study.folder.config), *named, *split, *folds, "--ckpt_path", "auto"]


def is_finished(study: Study, fold: int) -> bool:
    """Return whether a fold has been trained to its end, and what it saved is there."""
    attempts = training_of(study, fold)
    return any(attempt.get("code") == 0 for attempt in attempts) and study.folder.checkpoint(fold).exists()


def training_of(study: Study, fold: int) -> list[dict[str, Any]]:
    """Return the attempts to train a fold: started and ended (seconds since 1970), exit code, peak memory in MB."""
    found: list[dict[str, Any]] = _read(study).get(str(fold), [])
    return found


def seconds_of(study: Study, fold: int) -> float | None:
    """Return how long a fold has trained in all; an attempt that was killed counts up to its last checkpoint.

    None for one that SLURM started, whose time in the queue is not known.
    """
    last = study.folder.run(fold).last
    saved = last.stat().st_mtime if last.exists() else 0.0
    attempts: list[dict[str, float]] = training_of(study, fold)
    if any("slurm" in attempt for attempt in attempts):
        return None
    nexts = [attempt["started"] for attempt in attempts[1:]] + [saved]
    ends = [attempt.get("ended", min(saved, after)) for attempt, after in zip(attempts, nexts, strict=False)]
    return sum(max(0.0, end - attempt["started"]) for attempt, end in zip(attempts, ends, strict=True))


def _read(study: Study) -> dict[str, Any]:
    path = study.folder.training
    content: dict[str, Any] = read_json(path, RunError, {}) if path.exists() else {}
    return content


def note(study: Study, fold: int, **said: float) -> None:
    """Keep what is `said` of an attempt to train a fold; `started` begins one."""
    content = _read(study)
    attempts = content.setdefault(str(fold), [])
    if "started" in said:
        attempts.append({})
    attempts[-1] |= said
    write_json(study.folder.training, content)


def _end_killed(study: Study, fold: int) -> None:
    """Note of an attempt that was killed that it ended with its last checkpoint, before another one writes that."""
    last, attempts = study.folder.run(fold).last, training_of(study, fold)
    if attempts and not {"ended", "code", "slurm"}.intersection(attempts[-1]):
        saved = last.stat().st_mtime if last.exists() else 0.0
        note(study, fold, ended=max(attempts[-1]["started"], saved))


def _await_other(study: Study, fold: int, say: Callable[[str], None]) -> None:
    """Wait for a process that trains the fold already: that of a cross-validation which was killed itself."""
    run = study.folder.run(fold)
    if (process := holder(run)) is not None:
        say(f"fold {fold}: process {process} trains it already and is waited for")
        while holder(run) is not None:
            time.sleep(POLL)


def environment_of(study: Study) -> dict[str, str]:
    """Return the environment of all folds, in which the user's own classes are found."""
    return {"PYTHONPATH": os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), *study.code])}


def _share(slot: int, parallel: int) -> dict[str, str]:
    """Return the environment of one of `parallel` processes: its part of the GPUs and of the cores."""
    if parallel == 1:
        return {}
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]
    mine = gpus[slot::parallel] or gpus[slot % len(gpus) :][:1] if gpus else []
    share = {"OMP_NUM_THREADS": str(max(1, usable_cores() // parallel))}
    return share | ({"CUDA_VISIBLE_DEVICES": ",".join(mine)} if mine else {})
