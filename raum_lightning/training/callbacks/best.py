"""The best states of a run."""

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from raum_lightning.errors import RunError

BEST = "best.ckpt"


class BestCheckpoint(ModelCheckpoint):
    """Keeps the `keep` best states by the mean Dice of whole volumes, looked at after every validation.

    The best of all is `best.ckpt`, which with more than one is a link to `best-<step>.ckpt`. Raises `RunError` for less
    than one.
    """

    def __init__(self, folder: Path, *, keep: int = 1) -> None:
        if keep < 1:
            raise RunError(f"run.keep={keep} must be at least 1: so many of the best checkpoints are kept")
        super().__init__(
            folder,
            Path(BEST).stem if keep == 1 else "best-{step}",
            monitor="val/dice_mean",
            mode="max",
            save_top_k=keep,
            save_on_train_epoch_end=False,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Saves, and on rank 0 sets the link."""
        super().on_validation_end(trainer, pl_module)
        if not (self.best_model_path and trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING):
            return
        best = Path(self.best_model_path)
        link = best.with_name(BEST)
        if best != link:
            fresh = link.with_name(f".{BEST}.tmp")
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(best.name)
            fresh.replace(link)
