"""Writes each predicted case as NIfTI the moment it is done, and leaves out what is done already."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from raum_lightning.atomic import remove_partials
from raum_lightning.cases.case import read_remark, write_mask
from raum_lightning.training.callbacks.attributes import data_of


class PredictionWriter(pl.Callback):
    """`<folder>/<case id>.nii.gz` on the grid of the case's first modality, in the label values of its edition.

    The header of each file holds a fingerprint of the weights, the settings and the case's files. A run that was killed
    goes on after the last file that it wrote; files with another fingerprint are written anew.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fingerprints: dict[str, str] = {}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Tells the data module which cases are done; rank 0 looks, so that all ranks share the same rest."""
        if not trainer.predicting:
            return
        data = data_of(trainer)
        module: Any = pl_module
        windows = {key: module.windows[key] for key in ("roi_size", "overlap")}
        settings = [hash_weights(checkpoint["state_dict"]), module.mode, module.flips, windows, str(trainer.precision)]
        for name in data.predict_cases:
            key = json.dumps([*settings, data.prepared[name].folder.name])
            self.fingerprints[name] = hashlib.sha256(key.encode()).hexdigest()[:16]
        if trainer.is_global_zero:
            remove_partials(self.folder)
            data.predicted = frozenset(self._done())
        data.predicted = trainer.strategy.broadcast(data.predicted)

    def _done(self) -> list[str]:
        found = {name: path for name in self.fingerprints if (path := self._path(name)).exists()}
        remarks = {name: read_remark(path) for name, path in found.items()}
        done = [name for name, remark in remarks.items() if remark and remark[1] == self.fingerprints[name]]
        if done:
            print(f"{len(done)} of {len(self.fingerprints)} cases are segmented already in {self.folder}")
        if other := len(found) - len(done):
            print(f"{other} in {self.folder} are of other weights, settings or images and are segmented anew")
        return done

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Mapping[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Called on the rank that segmented the case, so each is written once."""
        data = data_of(trainer)
        labels: torch.Tensor = outputs
        for name, crop in zip(batch["case"], labels, strict=True):
            full = data.prepared[name].uncrop(crop.cpu().numpy())
            remark = self.fingerprints.get(name, "")
            write_mask(self._path(name), full, data.cases[name], data.modalities[0], remark)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says where they are."""
        if trainer.is_global_zero:
            print(f"segmentations: {self.folder}")

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.nii.gz"


def hash_weights(weights: Mapping[str, torch.Tensor]) -> str:
    """The same for the same names and values, whatever file they come from."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
