"""What the data costs: patches per second, and how long training waits for them."""

import time
from collections import deque
from typing import Any, NamedTuple

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_warn

from raum_lightning.training.callbacks.attributes import log_interval
from raum_lightning.training.schedule import is_due


class Step(NamedTuple):
    """One batch: seconds from the end of the last one to its own, those of them spent waiting for it, and patches."""

    seconds: float
    waited: float
    patches: int


class Throughput(pl.Callback):
    """Logs `perf/patches_per_s`, of all ranks, and `perf/data_wait`, the share of time that this rank waits for data.

    Both are over the last `steps` batches, without validation. The loader tells how long it was waited for
    (`PatchLoader.waited`), and nothing is asked of the GPU: where it is the slower one, batches lie ready and the wait
    is none. Above `tolerated` a warning names the keys to change, once.

    Args:
        steps: Batches that the figures are taken over.
        tolerated: Share of time in [0, 1].
    """

    def __init__(self, *, steps: int = 50, tolerated: float = 0.2) -> None:
        self.history: deque[Step] = deque(maxlen=steps)
        self.tolerated = tolerated
        self.warned = False
        self.ended: float | None = None
        self.waited = 0.0
        self.logged = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave out the first batch, for which workers start."""
        self.ended, self.logged = None, trainer.global_step

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self.paused = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock again."""
        if self.ended is not None:
            self.ended += time.perf_counter() - self.paused

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the time, and log in the steps that are logged."""
        loader: Any = trainer.train_dataloader
        now = time.perf_counter()
        if self.ended is not None:
            self.history.append(Step(now - self.ended, loader.waited - self.waited, len(batch["image"])))
        self.ended, self.waited = now, loader.waited
        step = trainer.global_step
        every = log_interval(trainer)
        if not self.history or step == self.logged or not is_due(step, every):
            return
        self.logged = step
        seconds, waited, patches = map(sum, zip(*self.history, strict=True))
        share = waited / seconds
        figures = {"perf/patches_per_s": trainer.world_size * patches / seconds, "perf/data_wait": share}
        pl_module.log_dict(figures, batch_size=1)
        if share > self.tolerated and len(self.history) == self.history.maxlen and not self.warned:
            self.warned = True
            rank_zero_warn(
                f"training waited for data during {share:.0%} of the last {len(self.history)} steps: raise "
                f"data.num_workers (now {loader.num_workers}), or on a GPU set data.augment_on to device"
            )
