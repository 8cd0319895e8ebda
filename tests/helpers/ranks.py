"""Runs of the command line in processes of their own, forked from one that has imported everything already."""

import csv
import json
import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.callbacks import Timer

import tests.helpers.float32  # noqa: F401
from raum_lightning.losses import DiceCELoss
from tests.helpers.processes import exit_codes

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["raum_lightning.cli.trainer"])


class SignalAt(pl.Callback):
    """Sends one rank a signal after so many batches."""

    def __init__(self, batches: int, signum: int, rank: int) -> None:
        self.batches, self.signum, self.rank = batches, signum, rank

    def on_train_batch_end(self, trainer: pl.Trainer, *unused: Any) -> None:
        if (trainer.fit_loop.epoch_loop.total_batch_idx + 1, trainer.global_rank) == (self.batches, self.rank):
            os.kill(os.getpid(), self.signum)


class StepClock(Timer):
    """Has a second pass in each step of rank 0, and two in those of others."""

    trainer: pl.Trainer | None = None

    def __init__(self, seconds: float) -> None:
        super().__init__(timedelta(seconds=seconds))

    def setup(self, trainer: pl.Trainer, *unused: Any, **named: Any) -> None:
        self.trainer = trainer

    def time_elapsed(self, *unused: Any) -> float:
        if self.trainer is None:
            return 0.0
        return self.trainer.global_step * (1.0 if self.trainer.is_global_zero else 2.0)


class NanAt(DiceCELoss):
    """Is NaN on one rank for one batch."""

    def __init__(self, batch: int, rank: int) -> None:
        super().__init__()
        self.left = batch if int(os.environ.get("RANK", "0")) == rank else -1

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = super().forward(logits, labels)
        self.left -= self.training
        return loss * (float("nan") if self.left == -1 and self.training else 1)


class NanGradientAt(DiceCELoss):
    """Is finite for all batches, and has a gradient of NaN for one, counted from 0."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.left = batch

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = super().forward(logits, labels)
        self.left -= self.training
        return loss + (0 * logits.sum()).sqrt() if self.left == -1 and self.training else loss


def signal_at(folder: Path, batches: int, signum: int, rank: int = 0) -> list[str]:
    """Arguments that add `SignalAt` to a run."""
    callback = {
        "class_path": "tests.helpers.ranks.SignalAt",
        "init_args": {"batches": batches, "signum": int(signum), "rank": rank},
    }
    path = folder / f"signal-{batches}-{int(signum)}-{rank}.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    return ["-c", str(path)]


def splits(path: Path, **parts: Sequence[int]) -> list[str]:
    """Arguments for a split of the fixture's cases by number."""
    path.write_text(
        json.dumps({part: [f"BraTS20_Training_{n:03d}" for n in numbers] for part, numbers in parts.items()})
    )
    return ["--data.splits", str(path)]


def start(folder: Path, words: Sequence[str], environment: dict[str, str] | None = None) -> ForkServerProcess:
    """Starts `raum WORDS` in `folder`; what it prints goes to `folder`/output-<rank>.txt."""
    process = PROCESSES.Process(target=_run, args=(folder, list(words), environment or {}))
    process.start()
    return process


def run(
    folder: Path, words: Sequence[str], ranks: int = 1, last: Sequence[str] = (), *, until: int | None = None
) -> list[int | None]:
    """Run `raum WORDS` as `torchrun` would, the last rank with more words; return the exit code of every rank.

    The end of the rank `until` ends the others, as it does under a launcher.
    """
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "TORCHELASTIC_RUN_ID": "none"}
    shared |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0"}
    processes = [
        start(
            folder,
            [*words, *(last if rank == ranks - 1 else ())],
            shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else None,
        )
        for rank in range(ranks)
    ]
    if until is not None:
        processes[until].join(240)
    return exit_codes(*processes, seconds=240 if until is None else 0)


def in_two_processes(target: Callable[[int, Path], None], folder: Path) -> None:
    """Call `target(rank, folder)` in a process for each of two ranks, which must succeed."""
    processes = [PROCESSES.Process(target=target, args=(rank, folder)) for rank in range(2)]
    for process in processes:
        process.start()
    assert exit_codes(*processes) == [0, 0]


def _run(folder: Path, words: list[str], environment: dict[str, str]) -> None:
    from raum_lightning.cli import main

    os.chdir(folder)
    os.environ.update(environment)
    with Path(f"output-{environment.get('RANK', '0')}.txt").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.exit(main(words))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def rows(run: Path) -> list[dict[str, str]]:
    """The numbers a run has logged, without those that clocks give."""
    logged = csv.DictReader((run / "metrics.csv").read_text().splitlines())
    return [{name: value for name, value in row.items() if not name.startswith("perf/")} for row in logged]


def state(run: Path) -> dict[str, Any]:
    """A run's last checkpoint."""
    content: dict[str, Any] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    return content
