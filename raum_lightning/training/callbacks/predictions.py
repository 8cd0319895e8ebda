"""Write each predicted case as NIfTI as soon as it is segmented, and skip cases that are segmented already."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from raum_lightning.atomic import remove_partials
from raum_lightning.cases.case import Case, read_remark, write_mask
from raum_lightning.datasets import DataSet
from raum_lightning.errors import OutputError
from raum_lightning.inference.card import ModelCard
from raum_lightning.runs.outputs import VOLUMES
from raum_lightning.training.callbacks.attributes import data_of
from raum_lightning.training.callbacks.mask_tables import write_label_tables, write_volumes
from raum_lightning.training.checkpoint_io import EXPORT


class PredictionWriter(pl.Callback):
    """Writes a mask of each case on the grid of its first modality, and tables of volumes and labels.

    A file is called `<case id>.nii.gz` unless the case's data set names it otherwise (`prediction`).

    Whose label values it holds is decided as by `raum segment`, see `ModelCard.labelling`. The header of each file
    holds a fingerprint of the weights, the settings and the case's files. A run that was killed is resumed after the
    last file that it wrote; files with another fingerprint are replaced.

    Args:
        folder: Where the files are written.

    Raises:
        OutputError: The folder holds a file of a case that `raum` did not write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fingerprints: dict[str, str] = {}
        self.card: ModelCard | None = None

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Tell the data module which cases are done; rank 0 looks, so that all ranks share the same rest."""
        self.card = ModelCard.of_checkpoint(checkpoint)
        if not trainer.predicting:
            return
        data = data_of(trainer)
        module: Any = pl_module
        windows = {key: module.windows[key] for key in ("roi_size", "overlap")}
        weights = checkpoint.get(EXPORT) or hash_weights(checkpoint["state_dict"])
        settings = [weights, module.mode, module.flips, windows, str(trainer.precision)]
        if module.steps.plain:
            settings.append(module.steps.plain)
        if data.without:
            settings.append(list(data.without))
            if data.fill_absent:
                settings.append(data.fill_absent)
        for name in data.predict_cases:
            key = json.dumps([*settings, data.prepared[name].folder.name])
            self.fingerprints[name] = hashlib.sha256(key.encode()).hexdigest()[:16]
        remarks: dict[str, tuple[str, str] | None] = {}
        if trainer.is_global_zero:
            remove_partials(self.folder)
            paths = {name: self._path(data.cases[name]) for name in self.fingerprints}
            remarks = {name: read_remark(path) for name, path in paths.items() if path.exists()}
        remarks = trainer.strategy.broadcast(remarks)
        if foreign := [name for name, remark in remarks.items() if remark is None]:
            raise OutputError(
                f"{self._path(data.cases[foreign[0]])}: was not written by raum, which would replace it; "
                "move it to another folder"
            )
        known = self.fingerprints.items()
        data.predicted = frozenset(name for name, key in known if (remarks.get(name) or ("", ""))[1] == key)
        if trainer.is_global_zero:
            self._report(len(data.predicted), len(remarks) - len(data.predicted))

    def _report(self, done: int, other: int) -> None:
        if done:
            print(f"{done} of {len(self.fingerprints)} cases are segmented already in {self.folder}")
        if other:
            print(f"{other} in {self.folder} are of other weights, settings or images and are replaced")

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Mapping[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the case, on the rank that segmented it."""
        data = data_of(trainer)
        labels: torch.Tensor = outputs
        for name, crop in zip(batch["case"], labels, strict=True):
            full = data.prepared[name].uncrop(crop.cpu().numpy())
            remark = self.fingerprints.get(name, "")
            case = replace(data.cases[name], dataset=self._data_set(data.cases[name]))
            if self.card:
                full = self.card.translate(full, case.dataset)
            write_mask(self._path(data.cases[name]), full, case, data.modalities[0], remark)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write their volumes and the names of their labels beside them, once all ranks are done, and say where."""
        trainer.strategy.barrier()
        if not trainer.is_global_zero:
            return
        data = data_of(trainer)
        written = {name: self._path(data.cases[name]) for name in data.predict_cases}
        masks = {name: (path, self._data_set(data.cases[name])) for name, path in written.items() if path.exists()}
        if masks:
            write_volumes(self.folder / VOLUMES, masks)
            write_label_tables(self.folder, {known.name: known for _, known in masks.values()}.values())
        module: Any = pl_module
        if module.steps.plain:
            print(f"cleaned: {module.steps} (--module.postprocess none leaves masks as the network makes them)")
        print(f"segmentations: {self.folder}")

    def _path(self, case: Case) -> Path:
        return self.folder / case.prediction_file

    def _data_set(self, case: Case) -> DataSet:
        """The data set whose label values the case's mask gets."""
        return self.card.labelling(case.dataset) if self.card else case.dataset


def hash_weights(weights: Mapping[str, torch.Tensor]) -> str:
    """Return a hash that is the same for the same names and values, whatever file they come from."""
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
