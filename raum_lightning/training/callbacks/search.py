"""Searches, when training ends, how masks are best cleaned, on the validation cases."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info

from raum_lightning.errors import ConfigError
from raum_lightning.postprocess import Postprocess
from raum_lightning.postprocess.files import Rows
from raum_lightning.postprocess.fit import FEWEST, Fitted, search
from raum_lightning.postprocess.variants import Variants, figures
from raum_lightning.runs.checkpoints import MODEL_CARD, read
from raum_lightning.training.callbacks.attributes import data_of
from raum_lightning.training.callbacks.preemption import LastCheckpoint
from raum_lightning.training.checkpoint_io import VerifiedCheckpointIO


class PostprocessSearch(pl.Callback):
    """Writes into the model card of the best checkpoint the steps that are safe on the validation cases.

    The masks are those of its weights, segmented as `test` does. Each rank segments and scores its own cases, and all
    come to the same steps by the scores of all.

    Raises:
        ConfigError: The strategy shards the weights.
    """

    def __init__(self) -> None:
        self.searched = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say before training where there are too few cases to search on."""
        if isinstance(trainer.strategy, ModelParallelStrategy):
            raise ConfigError(
                "module.postprocess=search cannot load the best weights where they are sharded: leave it out and give "
                "the predictions of the validation cases to `raum postprocess fit`"
            )
        if (count := len(data_of(trainer).split.val)) < FEWEST:
            rank_zero_info(
                f"module.postprocess=search needs {FEWEST} validation cases and there are {count}: masks stay as they "
                "are; data.folds and data.splits decide how many there are"
            )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Search, and write what was found; a signal ends it, once the last state is saved."""
        last = next((one for one in trainer.checkpoint_callbacks if isinstance(one, LastCheckpoint)), None)
        if last is None:
            self._search(trainer, pl_module)
            return
        last.on_train_end(trainer, pl_module)
        with last.leaving_at_once(trainer, "module.postprocess=search was not finished: best.ckpt has no steps yet"):
            self._search(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Search where a run is resumed that had only this left to do."""
        if not self.searched:
            self.on_train_end(trainer, pl_module)

    def _search(self, trainer: pl.Trainer, module: Any) -> None:
        self.searched = True
        path = _best(trainer)
        if len(data_of(trainer).split.val) < FEWEST:
            return
        if path is None:
            rank_zero_info("module.postprocess=search: no best checkpoint was saved, so there is none to clean for")
            return
        kept = {name: weight.clone() for name, weight in module.state_dict().items()}
        module.load_state_dict(read(path)["state_dict"])
        own = _segmented(trainer, module)
        module.load_state_dict(kept)
        fitted = search(lambda tried: _rows(own, tried, trainer), module.regions)
        if trainer.is_global_zero:
            _store(fitted.steps, path)
            _say(fitted, module, path)
        trainer.strategy.barrier()


def _best(trainer: pl.Trainer) -> Path | None:
    found = [one.best_model_path for one in trainer.checkpoint_callbacks if isinstance(one, ModelCheckpoint)]
    return Path(found[0]) if found and found[0] else None


@torch.no_grad()
def _segmented(trainer: pl.Trainer, module: Any) -> dict[str, Variants]:
    """Return this rank's validation cases, segmented without steps."""
    training = module.training
    module.eval()
    if trainer.val_dataloaders is None:  # of a run that was resumed behind its last step
        trainer.fit_loop.epoch_loop.val_loop.setup_data()
    loader: Any = trainer.val_dataloaders
    dataset = data_of(trainer).dataset
    found = {}
    for number, loaded in enumerate(loader):
        batch = trainer.strategy.batch_to_device(loaded)
        # of the step alone: a CPU's bf16 cannot stack the float16 of which the loader makes batches
        with trainer.precision_plugin.predict_step_context():
            masks = module.predict_step(batch, number)
        columns = batch["case"], masks, batch["label"], batch["spacing"].tolist()
        for case, *both, (x, y, z) in zip(*columns, strict=True):
            prediction, target = (labels.to(torch.uint8).cpu().numpy() for labels in both)
            found[case] = Variants(
                prediction, target, module.rules.of(dataset.classes), spacing=(x, y, z), dataset=dataset
            )
    module.train(training)
    return found


def _rows(own: dict[str, Variants], tried: Sequence[Postprocess], trainer: pl.Trainer) -> Rows:
    """Return the scores of all ranks' cases in order of ids; the last batch may hold a case twice."""
    rows = {case: variants.scores(tried) for case, variants in own.items()}
    parts: list[Any] = [rows]
    if trainer.world_size > 1:
        parts = [None] * trainer.world_size
        torch.distributed.all_gather_object(parts, rows)
    found = {case: row for part in parts for case, row in part.items()}
    return [found[case] for case in sorted(found)]


def _store(steps: Postprocess, path: Path) -> None:
    """Write the steps into the model card of a checkpoint, whose time stays: a run is resumed from its newest."""
    path = path.resolve()
    content, times = read(path), path.stat()
    content[MODEL_CARD]["postprocess"] = steps.plain or None
    VerifiedCheckpointIO().save_checkpoint(content, path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _say(fitted: Fitted, module: Any, path: Path) -> None:
    dice, distance, _ = figures(module.rules)
    (before, before_mm, _), (after, after_mm, _) = fitted.before, fitted.after
    print(
        f"cleaning {fitted.steps}, found on {fitted.cases} validation cases (rules {module.rules.name}) for {path.name}"
    )
    print(
        f"         mean {dice} {before:.3f} to {after:.3f}, {distance} {before_mm:.1f} to {after_mm:.1f} mm", flush=True
    )
