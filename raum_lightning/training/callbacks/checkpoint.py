"""What exact resuming needs besides weights, optimiser and position in the data."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info

from raum_lightning.cases.splits import Split
from raum_lightning.errors import RunError
from raum_lightning.inference.weights import UNKNOWN
from raum_lightning.training.callbacks.attributes import data_of
from raum_lightning.training.length import accumulated, only_timer
from raum_lightning.training.optimizers import follow_schedule

PATCHES = "patches"  # key of a checkpoint: how many a batch of all ranks has, and a step
CLOSE = 1.05  # of two learning rates, one of which nothing is said


class Provenance(pl.Callback):
    """Puts into every checkpoint the run's configuration, as YAML."""

    def __init__(self, config: str) -> None:
        self.config = config

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add `config`, which is text, so that `torch.load(weights_only=True)` reads it."""
        checkpoint["config"] = self.config


class TrainedCases(pl.Callback):
    """Records in every checkpoint which cases trained it, and refuses to score these as unseen cases."""

    def __init__(self) -> None:
        self.trained: frozenset[str] = frozenset()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Counts those that trained the weights that the run starts from; raises `RunError` as below."""
        if started := getattr(pl_module, "started_from", None):
            path, trained = started
            self.trained |= trained
            _check_unseen(trainer, trained, f"module.init_from={path}")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds `trained`, their ids: of this run, and of those whose checkpoints it resumed or started from."""
        if split := _split_of(trainer):
            checkpoint["trained"] = sorted(self.trained.union(split.train))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Raises `RunError` naming cases; one that the split itself has twice is meant."""
        if "trained" not in checkpoint:
            rank_zero_info(f"{trainer.ckpt_path}: {UNKNOWN}")
        self.trained = frozenset(checkpoint.get("trained", ()))
        _check_unseen(trainer, self.trained, "this checkpoint")


def _split_of(trainer: pl.Trainer) -> Split | None:
    """Return which cases train and which are scored; None where the data are of no `BratsDataModule`."""
    split = getattr(getattr(trainer, "datamodule", None), "split", None)
    return split if isinstance(split, Split) else None


def _check_unseen(trainer: pl.Trainer, trained: frozenset[str], weights: str) -> None:
    split = _split_of(trainer)
    if split is None:
        return
    parts = {"fit": [*split.val, *split.test], "validate": split.val}
    scored = parts.get(trainer.state.fn or "", split.test)
    if known := sorted(trained.intersection(scored).difference(split.train)):
        raise RunError(
            f"{len(known)} of {len(scored)} cases to be scored were used to train {weights} "
            f"({', '.join(known[:5])}); give data.fold, folds and test_fraction as they "
            "were, or the splits.json of its run as data.splits"
        )


class Continuation(pl.Callback):
    """Resumes a run at the step of its checkpoint, not at that where it was killed, with as many patches a step."""

    def __init__(self) -> None:
        self.rebatched = False
        """Whether the same patches of a step are now other batches."""
        self.starts = False

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Adds how many patches a step has."""
        parts = accumulated(trainer, trainer.current_epoch)
        checkpoint[PATCHES] = {"batch": _batch(trainer), "step": _batch(trainer) * parts}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Raises `RunError` where a step would have another number of patches."""
        before, parts = checkpoint.get(PATCHES), accumulated(trainer, checkpoint["epoch"])
        now = {"batch": _batch(trainer), "step": _batch(trainer) * parts}
        if before and before["step"] != now["step"]:
            raise RunError(
                f"{trainer.ckpt_path}: its steps have {before['step']} patches, now they would have {now['step']} "
                f"(data.batch_size {data_of(trainer).batch_size} x {trainer.world_size} ranks x "
                f"trainer.accumulate_grad_batches {parts}): choose these so that it stays the same, or train another "
                "run from these weights with --module.init_from"
            )
        self.rebatched = before is not None and before["batch"] != now["batch"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tells the loggers that have a `rewind` the step at which training starts; closes a finished epoch."""
        self.starts = True
        loop = trainer.fit_loop
        if self.rebatched:  # in the middle of an epoch `PatchLoader` has refused it
            finished = loop.epoch_loop.batch_progress.current
            for count in ("ready", "started", "processed", "completed"):
                setattr(finished, count, trainer.num_training_batches)
        if loop.restarted_on_epoch_end:
            # saved in `on_train_epoch_end`: Lightning (2.6) would count the epoch twice and skip the next one's data
            loop.epoch_progress.increment_completed()
            loop.reset_restart_stage()
            loop.epoch_loop.restarting = False
        for config in trainer.lr_scheduler_configs:
            before, after = follow_schedule(config.scheduler) or (0.0, 0.0)
            # by the clock the length is a little other at every moment
            if after != before and not (only_timer(trainer) and after < CLOSE * before):
                rank_zero_info(
                    f"the run's length or schedule is another than the checkpoint's: at step {trainer.global_step} the "
                    f"learning rate jumps from {before:.3g} to {after:.3g}, as a run of this length has it there"
                )
        for logger in trainer.loggers:
            if rewind := getattr(logger, "rewind", None):
                rewind(trainer.global_step)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Counts the steps of the logs on, which Lightning (2.6) saves before a validation and raises after it."""
        if self.starts:
            trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
            # a schedule sets it where an epoch starts, and not where one goes on
            trainer.accumulate_grad_batches = accumulated(trainer, trainer.current_epoch)
            self.starts = False


def _batch(trainer: pl.Trainer) -> int:
    """Return the patches of a batch over all ranks."""
    batch: int = data_of(trainer).batch_size * trainer.world_size
    return batch
