"""Pictures of a few fixed cases in W&B after each validation, with masks as layers that can be switched off."""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as pl
import numpy as np
from numpy.typing import NDArray

from raum_lightning.data.store import Prepared
from raum_lightning.errors import ConfigError
from raum_lightning.figures.paint import grey
from raum_lightning.figures.planes import AXIAL, PLANES, Upright, centre, most
from raum_lightning.training.callbacks.attributes import data_of, shown_id, wandb_of

# of a predicted case, at most
SLICES = 16


class Overlays(pl.Callback):
    """Logs reference and prediction upon the image to W&B; without a W&B logger it does nothing.

    While training, three pictures for each case under `overlays/<case id>/`: the axial, coronal and sagittal slice with
    most tumour in the reference; W&B's slider goes through the validations. Of `predict`, `predictions/<case id>`:
    axial slices through the predicted tumour, for the slider too. With several ranks the cases are the first of rank 0.

    Args:
        every: Validations from one picture of a case to the next; the first is drawn.
        cases: How many cases.
        modality: What the masks lie on; the first of data.modalities where not given.
    """

    def __init__(self, *, every: int = 1, cases: int = 2, modality: str | None = None) -> None:
        if every < 1:
            raise ConfigError(f"every={every} must be at least 1: pictures are drawn at every so many validations")
        self.every, self.cases, self.modality = every, cases, modality
        self.validations = 0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raise `ConfigError` where the data has no such modality."""
        data = data_of(trainer)
        if self.modality and self.modality not in data.modalities:
            raise ConfigError(f"modality={self.modality!r} is not one of data.modalities: {', '.join(data.modalities)}")

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Mapping[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the case; `outputs` is its prediction, B X Y Z class indices."""
        logger, step = wandb_of(trainer), max(0, trainer.global_step - 1)  # that of the Dice which Lightning logs
        if logger is None or trainer.sanity_checking or self.validations % self.every or batch_idx >= self.cases:
            return
        data = data_of(trainer)
        channel = self._channel(data)
        for name, image, reference, prediction in zip(
            batch["case"], batch["image"], batch["label"], outputs, strict=True
        ):
            arrays = (tensor.cpu().numpy() for tensor in (image[channel], reference, prediction))
            for plane, picture in slices(data.prepared[name], *arrays, classes=data.dataset.classes).items():
                logger.log_image(f"overlays/{shown_id(logger, name)}/{plane}", step=step, **picture)

    @property
    def state_key(self) -> str:
        """Which of several this is, such as one for each of two modalities."""
        return f"{type(self).__name__} every {self.every}, {self.cases} cases, {self.modality}"

    def state_dict(self) -> dict[str, Any]:
        """Return how many validations there were, so that a resumed run draws where it would have drawn."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.validations = state_dict["validations"]

    def _channel(self, data: Any) -> int:
        return int(data.modalities.index(self.modality)) if self.modality else 0

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the validations."""
        self.validations += not trainer.sanity_checking

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Mapping[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw the case; `outputs` is its prediction, B X Y Z class indices."""
        logger = wandb_of(trainer)
        if logger is None or batch_idx >= self.cases:
            return
        data = data_of(trainer)
        channel = self._channel(data)
        for name, image, prediction in zip(batch["case"], batch["image"], outputs, strict=True):
            arrays = (tensor.cpu().numpy() for tensor in (image[channel], prediction))
            picture = through(data.prepared[name], *arrays, classes=data.dataset.classes)
            logger.log_image(f"predictions/{shown_id(logger, name)}", step=trainer.global_step, **picture)


def through(
    case: Prepared, image: NDArray[np.float32], prediction: NDArray[np.uint8], *, classes: Sequence[str]
) -> dict[str, list[Any]]:
    """Return upright axial slices, evenly through the predicted tumour, as arguments of `WandbLogger.log_image`.

    Image and prediction are a case's crop, X Y Z. Where nothing is predicted the slices go through the whole crop.
    """
    upright = Upright(case.crop_affine, image.shape)
    background, mask = grey(upright(image)), upright(prediction)
    spacing = [upright.spacing[axis] for axis in AXIAL.across]
    held = np.flatnonzero(mask.any(axis=AXIAL.across)) if mask.any() else np.arange(mask.shape[AXIAL.axis])
    chosen = held[np.unique(np.linspace(0, len(held) - 1, SLICES).round().astype(int))]
    labels = dict(enumerate(classes))
    images, masks, captions = [], [], []
    for place in map(int, chosen):
        images.append(square(AXIAL.cut(background, place), spacing))
        layer = square(AXIAL.cut(mask, place), spacing)
        masks.append({"prediction": {"mask_data": layer, "class_labels": labels}})
        captions.append(f"z = {upright.position(AXIAL, (0, 0, place)):.4g} mm")
    return {"images": images, "masks": masks, "caption": captions}


def slices(
    case: Prepared,
    image: NDArray[np.float32],
    reference: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    *,
    classes: Sequence[str],
) -> dict[str, dict[str, list[Any]]]:
    """Return the upright slice of each plane, from a case's crop, X Y Z, as arguments of `WandbLogger.log_image`."""
    upright = Upright(case.crop_affine, image.shape)
    background, *masks = grey(upright(image)), upright(reference), upright(prediction)
    at = most(masks[0]) if masks[0].any() else centre(background)
    pictures: dict[str, dict[str, list[Any]]] = {}
    for plane in PLANES:
        spacing = [upright.spacing[axis] for axis in plane.across]
        shown, *layers = (square(plane.cut(volume, at[plane.axis]), spacing) for volume in (background, *masks))
        named = {
            name: {"mask_data": layer, "class_labels": dict(enumerate(classes))}
            for name, layer in zip(("reference", "prediction"), layers, strict=True)
        }
        where = f"{'xyz'[plane.axis]} = {upright.position(plane, at):.4g} mm"
        pictures[plane.name] = {"images": [shown], "masks": [named], "caption": [where]}
    return pictures


def square(pixels: NDArray[np.uint8], spacing: Sequence[float]) -> NDArray[np.uint8]:
    """Return a slice, pixels `spacing` mm (column, row) apart, with square ones of the smaller size, by nearest."""
    wide, tall = spacing
    picks = []
    for size, mm in zip(pixels.shape, (tall, wide), strict=True):
        count = round(size * mm / min(spacing))
        picks.append(((np.arange(count) + 0.5) * size / count).astype(int))
    return pixels[np.ix_(*picks)]
