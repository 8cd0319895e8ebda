"""What goes wrong in training, said in one sentence with what to do about it."""

import hashlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from raum_lightning.errors import TrainingError
from raum_lightning.training.callbacks.attributes import log_interval
from raum_lightning.training.callbacks.checkpoint import versions
from raum_lightning.training.schedule import is_due

PACKAGE = Path(__file__).parents[2]
NEVER = torch.iinfo(torch.int64).max


class FiniteLoss(pl.Callback):
    """Stops a run whose loss is no number any more, before a checkpoint of it is written.

    The rule is to stop, not to skip the batch: a loss that is no number has a cause, and AdamW's moments carry it on.
    The batch is found on the device; the host asks for it where it waits anyway, at the steps that are logged, and
    before every checkpoint. The rank on which it happened first names the cases and writes their patches to
    `<folder>/nonfinite-<batch>-rank<rank>.pt`; the last checkpoint holds weights from before.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first = torch.tensor(NEVER)
        self.batches: dict[int, tuple[list[str], int]] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins with a loss that has always been finite."""
        self.first = torch.tensor(NEVER, device=pl_module.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Mapping[str, Any], batch_idx: int
    ) -> None:
        """Notes the batch, and whether its loss is finite."""
        number = trainer.fit_loop.epoch_loop.total_batch_idx
        self.batches[number] = (batch["case"], batch_idx)
        self.first = torch.where(outputs["loss"].isfinite(), self.first, self.first.clamp(max=number))
        every = log_interval(trainer)
        if is_due(number + 1, every):
            self._stop_if_found(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keeps weights that are no numbers from replacing good ones."""
        self._stop_if_found(trainer)

    def _stop_if_found(self, trainer: pl.Trainer) -> None:
        first = int(trainer.strategy.reduce(self.first.clone(), reduce_op="min"))
        if first == NEVER:
            self.batches.clear()
            return
        if int(self.first) > first:  # it came from another rank, whose message names the batch
            raise SystemExit(2)
        cases, batch_idx = self.batches[first]
        path = self.folder / f"nonfinite-{first}-rank{trainer.global_rank}.pt"
        self._write(path, trainer.train_dataloader, batch_idx)
        raise TrainingError(
            f"the loss of batch {first} is not finite; it held {', '.join(cases)} and is kept in {path}. "
            "Run `raum check` on these cases; else lower module.lr, or set trainer.precision to 32-true"
        )

    def _write(self, path: Path, loader: Any, batch_idx: int) -> None:
        """The batch again: a patch is a function of its key."""
        size = loader.batch_size
        keys = [(loader.sampler.epoch, index) for index in loader.sampler.share[batch_idx * size :][:size]]
        batch = loader.collate_fn([loader.dataset[key] for key in keys])
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(dict(batch) | {"keys": keys}, path)


class SameEverywhere(pl.Callback):
    """Compares settings (keys to values), code and libraries of all ranks before training: DDP would not notice."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings = settings

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raises `TrainingError` on every rank, naming the first one that differs and in what."""
        if trainer.world_size == 1:
            return
        mine = {key: str(value) for key, value in self.settings.items()} | {"code": _code()} | versions()
        everyone: list[Any] = [None] * trainer.world_size
        torch.distributed.all_gather_object(everyone, (socket.gethostname(), mine))
        reference = everyone[0][1]
        for rank, (host, theirs) in enumerate(everyone):
            if differing := [key for key in reference | theirs if theirs.get(key) != reference.get(key)]:
                raise TrainingError(
                    f"rank {rank} on {host} differs from rank 0 on {everyone[0][0]} in: {', '.join(differing)}; "
                    "start all ranks from one installation with the same arguments"
                )


def _code() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(PACKAGE.rglob("*.py")))).hexdigest()


def explain(error: BaseException) -> str | None:
    """A sentence for a failure that is no defect of the program; None for all others."""
    said = str(error)
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "the GPU is out of memory: lower data.batch_size (and raise trainer.accumulate_grad_batches), set "
            "module.network.init_args.checkpointing to decoder or all, or lower data.roi_size with the network's "
            "img_size; while validating, lower module.sw_batch_size"
        )
    if isinstance(error, RuntimeError) and said.startswith("DataLoader worker"):
        return (
            f"a process that reads data died ({said.strip().rstrip('.')}), mostly for want of memory: "
            "lower data.num_workers, or give the job more memory and /dev/shm"
        )
    if isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in said):
        return (
            f"the connection to another rank is lost ({_first_line(said)}); what that one said last tells why. Started "
            "again with the same --run.id and --ckpt_path auto, the run goes on from its last checkpoint"
        )
    if isinstance(error, RuntimeError) and said.startswith("Error(s) in loading state_dict"):
        first = said.partition("\n")[2].strip()
        return (
            "the checkpoint is of another network than module.network; the config.yaml of its run has the one it was "
            f"trained with ({_first_line(first)})"
        )
    if isinstance(error, MisconfigurationException):
        return f"trainer: {_first_line(said)}"
    return None


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0].rstrip(".")
    return line if len(line) <= 200 else f"{line[:200]}..."


def located(text: str) -> str:
    """`text` with rank and host before it, where there is more than one rank."""
    world = os.environ.get("SLURM_NTASKS") or os.environ.get("WORLD_SIZE", "1")
    rank = os.environ.get("SLURM_PROCID") or os.environ.get("RANK") or os.environ.get("LOCAL_RANK", "0")
    return text if world == "1" else f"rank {rank} on {socket.gethostname()}: {text}"
