"""What W&B is shown of the validation and test cases."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from raum_lightning.cases.discovery import find_cases
from raum_lightning.data.store import Prepared, prepare, prepared_folder
from raum_lightning.datasets import load
from raum_lightning.labels import CLASSES, NCR
from raum_lightning.loggers import WandbLogger, finish_wandb
from raum_lightning.training.callbacks.overlays import SLICES, Overlays, slices, square, through

MODALITIES = ["flair", "t1ce"]


class Stub(WandbLogger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.logged: dict[str, Any] = {}

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self.logged[key] = {"images": images, "step": step, **kwargs}


@pytest.fixture
def prepared(brats: Path, tmp_path: Path) -> dict[str, Prepared]:
    cases = find_cases(brats)[:3]
    prepare(cases, tmp_path / "prepared", MODALITIES)
    return {case.id: Prepared.open(prepared_folder(case, tmp_path / "prepared", MODALITIES)) for case in cases}


def trainer(prepared: dict[str, Prepared], logger: Any, **changes: Any) -> Any:
    data = SimpleNamespace(modalities=MODALITIES, prepared=prepared, dataset=load("brats2020"))
    state = {"loggers": [logger], "is_global_zero": True, "sanity_checking": False, "global_step": 7}
    return SimpleNamespace(**state | changes, datamodule=data)


def validate(callback: Overlays, host: Any) -> list[str]:
    """One validation of all cases; the keys that were logged."""
    host.loggers[0].logged = {}
    for index, case in enumerate(host.datamodule.prepared.values()):
        label = torch.from_numpy(np.array(case.label))[None]
        batch = {"case": [case.id], "image": torch.from_numpy(np.array(case.image, np.float32))[None], "label": label}
        callback.on_validation_batch_end(host, None, label.roll((1, 1), (1, 2)), batch, index)
    callback.on_validation_end(host, None)
    return list(host.loggers[0].logged)


def test_the_same_first_cases_are_shown_every_so_often(prepared: dict[str, Prepared]) -> None:
    callback, host = Overlays(every=2, cases=2), trainer(prepared, Stub())
    first = [f"overlays/{name}/{plane}" for name in list(prepared)[:2] for plane in ("axial", "coronal", "sagittal")]
    assert [validate(callback, host) for _ in range(3)] == [first, [], first]
    assert {logged["step"] for logged in host.loggers[0].logged.values()} == {6}, (
        "as Lightning logs the Dice of 7 steps"
    )
    assert callback.state_key != Overlays(every=2, cases=2, modality="t1ce").state_key
    resumed = Overlays(every=2, cases=2)
    resumed.load_state_dict(callback.state_dict())
    assert [validate(resumed, host) for _ in range(2)] == [[], first]


@pytest.mark.parametrize("changes", [{"is_global_zero": False}, {"sanity_checking": True}])
def test_nothing_is_shown_by_other_ranks_and_before_the_start(
    prepared: dict[str, Prepared], changes: dict[str, bool]
) -> None:
    assert validate(Overlays(), trainer(prepared, Stub(), **changes)) == []
    assert validate(Overlays(), trainer(prepared, SimpleNamespace())) == []


def test_slices_are_upright_and_lie_where_the_tumour_is(prepared: dict[str, Prepared]) -> None:
    case = next(iter(prepared.values()))
    reference = np.zeros_like(case.label)
    reference[5, 6, 7] = NCR
    pictures = slices(case, np.array(case.image[0], np.float32), reference, np.array(case.label), classes=CLASSES)
    x, y, z = (start + voxel for start, voxel in zip(case.start, (5, 6, 7), strict=True))
    captions = {plane: picture["caption"] for plane, picture in pictures.items()}
    assert captions == {"axial": [f"z = {z} mm"], "coronal": [f"y = {239 - y} mm"], "sagittal": [f"x = {-x} mm"]}
    # the tests' cases run right to left and anterior to posterior already
    (shown,), (masks,) = pictures["axial"]["images"], pictures["axial"]["masks"]
    assert np.array_equal(masks["reference"]["mask_data"], reference[:, :, 7].T)
    assert np.array_equal(masks["prediction"]["mask_data"], case.label[:, :, 7].T)
    assert masks["reference"]["class_labels"] == dict(enumerate(CLASSES))
    assert shown.shape == reference.shape[1::-1] and shown.dtype == np.uint8


def test_pixels_are_made_square() -> None:
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(square(pixels, (1, 1)), pixels)
    assert np.array_equal(square(pixels, (1, 3)), pixels.repeat(3, axis=0))
    assert np.array_equal(square(pixels, (2, 1)), pixels.repeat(2, axis=1))


def test_a_prediction_is_shown_slice_by_slice_through_its_tumour(prepared: dict[str, Prepared]) -> None:
    name, case = next(iter(prepared.items()))
    prediction = np.zeros_like(case.label)
    prediction[5, 6, 2:5] = NCR
    host = trainer(prepared, Stub())
    batch = {"case": [name], "image": torch.from_numpy(np.array(case.image, np.float32))[None]}
    Overlays(cases=1).on_predict_batch_end(host, None, torch.from_numpy(prediction)[None], batch, 0)
    Overlays(cases=1).on_predict_batch_end(host, None, torch.from_numpy(prediction)[None], {}, 1)
    ((key, shown),) = host.loggers[0].logged.items()
    assert key == f"predictions/{name}"
    assert shown["caption"] == [f"z = {case.start[2] + voxel} mm" for voxel in (4, 3, 2)]
    layers = [mask["prediction"]["mask_data"] for mask in shown["masks"]]
    assert all(np.array_equal(layer, prediction[:, :, 3].T) for layer in layers)
    nothing = np.zeros_like(prediction)
    whole = through(case, np.array(case.image[0], np.float32), nothing, classes=CLASSES)
    assert len(whole["images"]) == min(SLICES, prediction.shape[2])


def test_mistakes_are_named(prepared: dict[str, Prepared]) -> None:
    with pytest.raises(ValueError, match="every=0 must be at least 1"):
        Overlays(every=0)
    with pytest.raises(ValueError, match=r"modality='t2' is not one of data\.modalities: flair, t1ce"):
        Overlays(modality="t2").setup(trainer(prepared, Stub()), None, "fit")


@pytest.mark.slow
def test_an_offline_run_holds_images_with_masks(prepared: dict[str, Prepared], tmp_path: Path) -> None:
    logger = WandbLogger(save_dir=tmp_path, id="one", offline=True)
    host = trainer(prepared, logger)
    validate(Overlays(cases=1, modality="t1ce"), host)
    finish_wandb()
    media = next(tmp_path.glob("wandb/offline-*/files/media"))
    assert len(list(media.glob("images/overlays/*/*.png"))) == 3
    assert len(list(media.glob("images/mask/overlays/*/*.mask.png"))) == 6
