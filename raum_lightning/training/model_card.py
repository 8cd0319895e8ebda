"""The model card of a network in training: what it is, and what its cases are."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from raum_lightning.data.store import ORIENTATION
from raum_lightning.inference.card import ModelCard
from raum_lightning.inference.card import describe as describe_data_set
from raum_lightning.training.provenance import versions


def describe(module: Any, data: Any) -> ModelCard:
    """Return the card of a `SegmentationModule` that learns from a `BratsDataModule`.

    The voxel size is the median of the training cases, and the scores are the latest.
    """
    trained = [data.prepared[name] for name in data.split.train]
    x, y, z = np.median([case.spacing for case in trained], axis=0).tolist()
    return ModelCard(
        modalities=tuple(data.modalities),
        **describe_data_set(data.dataset),
        orientation=ORIENTATION,
        spacing=(x, y, z),
        mode=module.mode,
        roi_size=module.windows["roi_size"],
        overlap=module.windows["overlap"],
        sw_batch_size=module.windows["batch_size"],
        flips=module.flips,
        training_cases=hashlib.sha256("\n".join(sorted(case.folder.name for case in trained)).encode()).hexdigest(),
        scores=module.val_scores,
        versions=versions(),
        postprocess=module.steps.plain or None,
        may_lack=tuple(name for name in data.modalities if data.modality_dropout.get(name)),
        fill_absent=data.fill_absent,
    )


def scores_of_run(card: ModelCard, trainer: Any) -> dict[str, float]:
    """Return the scores in the card of the checkpoint that a run goes on from; none of another run's."""
    own, saved = Path(trainer.default_root_dir), Path(str(trainer.ckpt_path))
    return dict(card.scores) if saved.resolve().is_relative_to(own.resolve()) else {}
