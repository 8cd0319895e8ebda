"""Whole volumes through the network of a LightningModule: validation, test and prediction by sliding window."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from raum_lightning.errors import CheckpointError
from raum_lightning.geometry import brain_mask
from raum_lightning.inference.blending import Network, seen
from raum_lightning.inference.compiling import in_batches_of
from raum_lightning.inference.ensemble import Ensemble
from raum_lightning.inference.sliding_window import check_finite, decide, probabilities_, segmentations, sliding_window
from raum_lightning.labels import NO_THRESHOLDS, REGIONS, Regions, Thresholds
from raum_lightning.losses import DiceCELoss
from raum_lightning.metrics import SegmentationMetrics
from raum_lightning.postprocess import Postprocess, clean
from raum_lightning.training.scoring import CaseScoring
from raum_lightning.training.sharding import hold_whole

Batch = dict[str, Any]
# as `module.postprocess`: find the steps on the validation cases
SEARCH = "search"


class WholeVolumeModule(pl.LightningModule):
    """Segments and scores whole volumes, each case once; `SegmentationModule` adds the options and the training.

    After validation and test `case_scores` holds the scores by case id, after validation `val_scores` the means.
    """

    network: nn.Module
    loss: nn.Module
    mode: str  # what the channels of logits are: labels or regions
    windows: dict[str, Any]  # the arguments of `sliding_window`
    flips: int
    compiles: bool
    postprocess: str | None  # as the user gave it
    steps: Postprocess  # by which masks are cleaned
    val_metrics: SegmentationMetrics
    test_metrics: SegmentationMetrics

    def __init__(self) -> None:
        super().__init__()
        self.regions: Regions = REGIONS  # until `setup` asks the data for those of its data set
        self.scoring = CaseScoring()
        self.case_scores: dict[str, dict[str, float]] = {}
        self.val_scores: dict[str, float] = {}
        self.checked: tuple[Any, int | str] = (None, "")  # what `check_fit` asked last, and the answer

    def on_validation_epoch_start(self) -> None:
        """Let every rank hold the whole network until its volumes are read."""
        hold_whole(self.network, True)

    on_test_epoch_start = on_predict_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Score one whole volume and return its class indices, B X Y Z uint8, for the callbacks."""
        image, label = batch["image"], batch["label"]
        logits = sliding_window(image, self._window_network, **self.windows)
        with self._naming(batch):
            check_finite(logits)
        loss = self._loss_of_seen(logits, label).item()
        prediction: torch.Tensor = decide(probabilities_(logits, self.mode), self.mode, self.regions)
        prediction = prediction * brain_mask(image)
        self.scoring.count(self.val_metrics, prediction, batch, loss=loss)
        return prediction

    def on_validation_epoch_end(self) -> None:
        """Log the means over the cases of all ranks."""
        self.val_scores = self._log_means("val", self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Score one whole volume, with `flips`."""
        raw, *others = self._segment(batch, NO_THRESHOLDS, *filter(None, [self.steps.threshold]))
        # a search that found nothing says so by equal scores
        cleans = self.steps.plain or self.postprocess == SEARCH
        cleaned = self._clean(others[0] if others else raw, batch) if cleans else None
        self.scoring.count(self.test_metrics, raw, batch, cleaned=cleaned)

    def on_test_epoch_end(self) -> None:
        """Log the means over the cases of all ranks."""
        self._log_means("test", self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Return class indices B X Y Z, uint8, of whole volumes, cleaned by `postprocess`."""
        return self._clean(self._segment(batch, self.steps.threshold)[0], batch)

    def on_predict_epoch_end(self) -> None:
        """Let each rank hold its shard of the network again."""
        hold_whole(self.network, False)

    def loss_of(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of logits B K X Y Z for class indices B X Y Z, uint8."""
        loss: torch.Tensor = self.loss(logits, self.as_targets(labels))
        return loss

    def as_targets(self, labels: torch.Tensor) -> torch.Tensor:
        """Return class indices in the type that the loss wants: int64 unless it is `DiceCELoss`."""
        return labels if isinstance(self.loss, DiceCELoss) else labels.long()

    @property
    def _window_network(self) -> Network:
        return in_batches_of(self.windows["batch_size"], self.network) if self.compiles else self.network

    def _segment(self, batch: Batch, *thresholds: Thresholds) -> list[torch.Tensor]:
        networks = self.network.members if isinstance(self.network, Ensemble) else self._window_network
        decided: dict[str, Any] = {"mode": self.mode, "regions": self.regions, "flips": self.flips}
        with self._naming(batch):
            return segmentations(batch["image"], networks, thresholds, **decided, **self.windows)

    @contextmanager
    def _naming(self, batch: Batch) -> Iterator[None]:
        """Name the case of which the network returned NaN: its score would be that of an empty mask."""
        try:
            yield
        except CheckpointError as error:
            precision = self.trainer.precision
            more = "" if precision in ("32-true", "64-true") else "give 32-true, and where it does the same, "
            more += "lower module.lr" if self.trainer.state.fn == TrainerFn.FITTING else "take other weights"
            raise CheckpointError(
                f"{', '.join(batch['case'])}: {error} with trainer.precision {precision}; {more}"
            ) from None

    def _clean(self, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        if not self.steps.plain:
            return labels
        cases = zip(labels.cpu().numpy(), batch["spacing"].tolist(), strict=True)
        cleaned = [torch.from_numpy(clean(one, self.steps, tuple(size), self.regions)) for one, size in cases]
        return torch.stack(cleaned).to(labels.device)

    def _loss_of_seen(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of one volume over the voxels that a window saw, as 1 K N 1 1."""
        at = seen(logits)
        return self.loss_of(logits.movedim(1, -1)[at].T[None, :, :, None, None], labels[at][None, :, None, None])

    def _log_means(self, stage: str, metrics: SegmentationMetrics) -> dict[str, float]:
        hold_whole(self.network, False)
        means, self.case_scores = self.scoring.results(metrics)
        named = {f"{stage}/{name}": value for name, value in means.items()}
        self.log_dict(named, sync_dist=True)  # the same on every rank already; this tells Lightning so
        return named
