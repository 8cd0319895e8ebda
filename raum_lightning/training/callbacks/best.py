"""The best states of a run."""

import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from raum_lightning.atomic import partial_path
from raum_lightning.runs.folder import RunFolder


class BestCheckpoint(ModelCheckpoint):
    """Keeps the `keep` best states by the score of whole volumes, looked at after every validation.

    The best of all is `run.best`, which with more than one is a link to the file of its step, or a copy where there
    can be no links.

    Args:
        run: Where they are kept.
        monitor: Name of the score as it is logged, such as val/dice_mean.
        lower: Whether a lower score is better.
        keep: How many, at least 1.
    """

    def __init__(self, run: RunFolder, monitor: str, *, lower: bool = False, keep: int = 1) -> None:
        self.run = run
        self.goes_on = False
        super().__init__(
            run.checkpoints,
            run.best.stem if keep == 1 else f"{run.best.stem}-{{step}}",
            monitor=monitor,
            mode="min" if lower else "max",
            save_top_k=keep,
            save_on_train_epoch_end=False,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Note whether the run goes on from its own folder, wherever that lies now."""
        self.goes_on = Path(str(trainer.ckpt_path)).resolve().parent == Path(self.dirpath or "")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the scores, and of the files those of this run: what is named here is replaced and removed later.

        They are found in the run's folder as it is called now: it may have been moved, or be mounted elsewhere.
        """
        before = state_dict["dirpath"]
        files = {self._now(path, before): score for path, score in state_dict["best_k_models"].items()}
        files.pop("", None)
        worst = self._now(state_dict["kth_best_model_path"], before)
        kept = {
            "best_k_models": files,
            "kth_best_model_path": worst if worst in files else next(iter(files), ""),
            "best_model_path": self._now(state_dict["best_model_path"], before),
            "last_model_path": "",
        }
        super().load_state_dict(state_dict | kept | ({"dirpath": self.dirpath} if self.goes_on else {}))

    def _now(self, name: str, before: str) -> str:
        """Return the path of a file of this run, whose folder was `before`; none for one of another run."""
        path, folder = Path(name), Path(self.dirpath or "")
        if self.goes_on and path.parent == Path(before) != folder:
            path = folder / path.name
            name = str(path) if path.exists() else ""
        return name if path.parent == folder and path.suffix == self.FILE_EXTENSION else ""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, and on rank 0 set the link."""
        super().on_validation_end(trainer, pl_module)
        if not (self.best_model_path and trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING):
            return
        best = Path(self.best_model_path)
        if best.name != self.run.best.name:
            link = partial_path(self.run.best)
            try:
                link.symlink_to(best.name)
            except OSError:  # Windows lets not every user make links, nor does every file system
                shutil.copyfile(best, link)
            link.replace(self.run.best)
