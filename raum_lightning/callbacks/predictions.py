"""Writes each predicted case as NIfTI the moment it is done."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from raum_lightning.cases import write_mask


class PredictionWriter(pl.Callback):
    """`<folder>/<case id>.nii.gz` on the grid of the case's first modality, in the label values of its edition."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        labels: torch.Tensor = outputs
        for name, crop in zip(batch["case"], labels, strict=True):
            full = data.prepared[name].uncrop(crop.cpu().numpy())
            write_mask(self.folder / f"{name}.nii.gz", full, data.cases[name], data.modalities[0])

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says where they are."""
        if trainer.is_global_zero:
            print(f"segmentations: {self.folder}")
