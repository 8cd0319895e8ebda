"""Scores of a run: of whole cases, counted beside the network, and of the patches that it is trained on."""

from functools import partial
from typing import Any

import torch

from raum_lightning.datasets import IGNORED
from raum_lightning.labels import REGIONS, Regions, classify, to_regions
from raum_lightning.metrics import SegmentationMetrics
from raum_lightning.training.background import Background

Scores = dict[str, float]

# before the names of the scores of cleaned masks
CLEANED = "cleaned/"


class CaseScoring(Background):
    """Scores the cases of batches in the background and counts each in metrics."""

    def count(
        self,
        metrics: SegmentationMetrics,
        predictions: torch.Tensor,
        batch: dict[str, Any],
        *,
        cleaned: torch.Tensor | None = None,
        **more: float,
    ) -> None:
        """Count the cases of a batch by their predicted class indices, B X Y Z.

        The scores of `cleaned` masks, B X Y Z, are counted beside those of the raw ones, and `more` values too.
        """
        # of the whole grid; a batch of the user's own may be a whole volume
        voxels = batch["voxels"].tolist() if "voxels" in batch else [None] * len(predictions)
        grids = zip(batch["spacing"].tolist(), voxels, strict=True)
        rows = zip(batch["case"], grids, predictions, batch["label"], strict=True)
        for number, (case, (spacing, size), labels, target) in enumerate(rows):
            other = None if cleaned is None else cleaned[number]
            described = {"case": case, "spacing": tuple(spacing), "voxels": size, **more}
            self.run(partial(_count, metrics, labels, target, other, **described))

    def results(self, metrics: SegmentationMetrics) -> tuple[Scores, dict[str, Scores]]:
        """Return the means over the cases of all ranks and the scores of each, and forget them; waits for all jobs."""
        self.finish()
        means, cases = metrics.compute(), metrics.per_case()
        metrics.reset()
        return means, cases


def _count(
    metrics: SegmentationMetrics, raw: torch.Tensor, target: torch.Tensor, cleaned: torch.Tensor | None, **case: Any
) -> None:
    beside = {} if cleaned is None else metrics.score(cleaned, target, spacing=case["spacing"], voxels=case["voxels"])
    case |= {f"{CLEANED}{name}": value for name, value in beside.items()}
    metrics.update(raw, target, **case)


def pseudo_dice(logits: torch.Tensor, labels: torch.Tensor, mode: str, regions: Regions = REGIONS) -> torch.Tensor:
    """Return the mean Dice of the regions over the patches of a batch taken together, a scalar on their device.

    Called pseudo, as nnU-Net does, because patches are no cases: not comparable with the Dice of whole volumes.
    """
    prediction, target = to_regions(classify(logits, mode, regions), regions), to_regions(labels, regions)
    prediction = prediction & (labels != IGNORED).unsqueeze(1)
    axes = (0, 2, 3, 4)
    both = (prediction & target).sum(axes)
    either = prediction.sum(axes) + target.sum(axes)
    return torch.where(either > 0, 2 * both / either, 1.0).mean()
