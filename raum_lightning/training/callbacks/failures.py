"""Errors during training, each reported as one sentence with a remedy."""

import hashlib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from raum_lightning.atomic import atomic
from raum_lightning.errors import TrainingError
from raum_lightning.runs.folder import RunFolder
from raum_lightning.training.callbacks.attributes import log_interval
from raum_lightning.training.provenance import versions
from raum_lightning.training.schedule import is_due
from raum_lightning.training.sharding import shard_of

PACKAGE = Path(__file__).parents[2]
NEVER = torch.iinfo(torch.int64).max


class FailedElsewhere(SystemExit):
    """Ends a rank without a word where another one says what has failed; W&B, which hears rank 0 alone, is told."""

    def __init__(self, said: str) -> None:
        super().__init__(2)
        self.said = said

    def __str__(self) -> str:
        return self.said


class FiniteLoss(pl.Callback):
    """Stops a run whose loss or weights became NaN or infinite, before a checkpoint of it is written.

    The rule is to stop, not to skip the batch: NaN has a cause, and AdamW's moments carry it on. The batch is found on
    the device; the host asks for it where it waits anyway, at the steps that are logged, and before every checkpoint.
    The rank on which it happened first names the cases and writes their patches to `run.nonfinite`; the last
    checkpoint holds weights from before.

    Args:
        run: Where the patches are kept.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.first = torch.tensor(NEVER)
        self.batches: dict[int, tuple[list[str], int, int]] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin with a loss that has always been finite."""
        self.first = torch.tensor(NEVER, device=pl_module.device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Mapping[str, Any], batch_idx: int
    ) -> None:
        """Note the batch, and whether its loss is finite."""
        number = trainer.fit_loop.epoch_loop.total_batch_idx
        self.batches[number] = (batch["case"], trainer.current_epoch, batch_idx)
        self.first = torch.where(outputs["loss"].isfinite(), self.first, self.first.clamp(max=number))
        every = log_interval(trainer)
        if is_due(number + 1, every):
            self._stop_if_found(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep weights that are NaN from replacing good ones."""
        self._check_weights(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let them not be scored, as masks without tumour."""
        if not trainer.sanity_checking:  # of weights that nothing has changed
            self._check_weights(trainer, pl_module)

    def _check_weights(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop where a loss was not finite, or a gradient of one that was."""
        self._stop_if_found(trainer)
        own = [shard_of(one).isfinite().all() for one in pl_module.parameters() if one.requires_grad]
        if trainer.strategy.reduce_boolean_decision(bool(own) and not torch.stack(own).all(), all=False):
            said = f"weights became NaN or infinite by step {trainer.global_step}, of losses that were finite"
            if not trainer.is_global_zero:
                raise FailedElsewhere(said)
            raise TrainingError(
                f"{said}: they are not saved. Look at module.loss where it is of your own; else resume with "
                "trainer.precision 32-true, or train another run with a lower module.lr"
            )

    def _stop_if_found(self, trainer: pl.Trainer) -> None:
        first = int(trainer.strategy.reduce(self.first.clone(), reduce_op="min"))
        if first == NEVER:
            self.batches.clear()
            return
        if int(self.first) > first:  # it came from another rank, whose message names the batch
            raise FailedElsewhere(f"the loss of batch {first} became NaN or infinite on another rank")
        cases, epoch, batch_idx = self.batches[first]
        path = self.run.nonfinite(first, trainer.global_rank)
        self._write(path, trainer.train_dataloader, epoch, batch_idx)
        raise TrainingError(
            f"the loss of batch {first} became NaN or infinite; it held {', '.join(cases)} and is kept in {path}. "
            "Run `raum check` on these cases; else resume with trainer.precision 32-true, or train another run with a "
            "lower module.lr, from this one's weights with module.init_from"
        )

    def _write(self, path: Path, loader: Any, epoch: int, batch_idx: int) -> None:
        """Write the batch, which is made again: a patch is a function of its key."""
        size = loader.batch_size
        keys = [(epoch, index) for index in loader.sampler.share[batch_idx * size :][:size]]
        batch = loader.collate_fn([loader.dataset[key] for key in keys])
        with atomic(path) as partial, partial.open("wb") as file:
            torch.save(dict(batch) | {"keys": keys}, file)


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
    # nodes with checkouts of their own may differ within one version
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(PACKAGE.rglob("*.py")))).hexdigest()
