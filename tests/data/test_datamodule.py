"""What the data module refuses before any case is read, and what its batches are without a trainer."""

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from raum_lightning.data.datamodule import BratsDataModule
from raum_lightning.datasets import presets
from raum_lightning.errors import CaseError, ConfigError, SplitError
from tests.helpers.cases import AFFINE, tiny_volumes, write_brats, write_msd


def datamodule(root: Path, **options: Any) -> BratsDataModule:
    small = {"roi_size": (16, 16, 16), "batch_size": 2, "patches_per_epoch": 4, "num_workers": 0, "seed": 0}
    return BratsDataModule(root, prepared_dir=root.parent / "prepared", **small | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size=0 must be a whole number of at least 1"),
        ({"batch_size": 2.5}, r"data\.batch_size=2\.5 must be a whole number"),
        ({"patches_per_epoch": 0}, r"data\.patches_per_epoch=0 must be a whole number of at least 1"),
        ({"num_workers": -1}, r"data\.num_workers=-1 must be a whole number of at least 0"),
        ({"seed": -1}, r"data\.seed=-1 must be a whole number of at least 0"),
        ({"roi_size": (16, 0, 16)}, r"data\.roi_size=\[16, 0, 16\] must be three whole numbers of at least 1"),
        ({"roi_size": (16, 16)}, r"data\.roi_size=\[16, 16\] must be three"),
        ({"batch_size": 64, "patches_per_epoch": 8}, r"data\.batch_size=64 is larger than an epoch .*epoch=8"),
        ({"foreground_probability": 1.1}, r"data\.foreground_probability=1\.1 must be between 0 and 1"),
        ({"foreground_probability": float("nan")}, r"data\.foreground_probability=nan"),
        ({"test_fraction": -0.1}, r"data\.test_fraction=-0\.1 must be at least 0 and below 1"),
        ({"folds": 1}, r"data\.folds=1 must be 2 or more"),
        ({"fold": 5}, r"data\.fold=5 does not exist"),
        ({"case_weights": {"a": float("nan")}}, "case_weights gives a the weight nan"),
        ({"modalities": ["flair", "flair"]}, r"data\.modalities=\['flair', 'flair'\] must be some of"),
        ({"modalities": "flair"}, r"data\.modalities='flair' must be a list of names: \['flair'\]"),
        ({"roi_size": 32}, r"data\.roi_size=32 must be three whole numbers"),
        ({"modalities": []}, r"data\.modalities=\[\] must be some of"),
    ],
)
def test_numbers_that_cannot_be_used_are_refused_in_the_constructor(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, SplitError), match=message):
        datamodule(Path("nowhere"), **options)


def test_weights_of_unknown_cases_are_refused_before_any_is_prepared(brats: Path) -> None:
    data = datamodule(brats, case_weights={"BraTS20_Training_999": 2})
    with pytest.raises(ConfigError, match=r"case_weights names BraTS20_Training_999"):
        data.prepare_data()
    assert not (brats.parent / "prepared").exists()


def test_class_weights_name_the_classes_of_the_cases(tmp_path: Path) -> None:
    write_msd(tmp_path / "cases", 3)
    index = tmp_path / "cases/dataset.json"
    labels = {"0": "background", "1": "ET", "2": "ED", "3": "core"}
    index.write_text(json.dumps(json.loads(index.read_text()) | {"labels": labels}))
    assert datamodule(tmp_path / "cases", class_weights={"ET": 1}).places.class_weights == {1: 1}
    for weights, message in (({"RC": 1}, "names RC; give ET, ED, core"), ({"ET": -1}, "gives ET the weight -1")):
        with pytest.raises(ConfigError, match=f"class_weights {message}"):
            datamodule(tmp_path / "cases", class_weights=weights)


def test_visits_of_a_data_set_of_ones_own(tmp_path: Path) -> None:
    """A pattern that fits no id, or splits that are not there, would let one visit train and another one test."""
    about = {"images": {"flair": "{case}/scan"}, "mask": "{case}/seg", "labels": {1: "tumour"}}
    for case in ("p1_a", "p1_b", "p2_a", "p2_b", "p3_a", "p3_b"):
        (tmp_path / "cases" / case).mkdir(parents=True)
        for role in ("scan", "seg"):
            nib.save(nib.Nifti1Image(np.ones((4, 4, 4), np.uint8), AFFINE), tmp_path / "cases" / case / f"{role}.nii")

    def select(**more: str) -> BratsDataModule:
        (tmp_path / "own.yaml").write_text(json.dumps(about | more))
        data = datamodule(tmp_path / "cases", dataset=str(tmp_path / "own.yaml"), folds=2, test_fraction=0.2)
        data.select()
        return data

    split = select(patient="(p[0-9]+)_.").split
    parts = [{name[:2] for name in part} for part in (split.train, split.val, split.test)]
    assert sum(map(len, parts)) == len(set().union(*parts)) == 3
    with pytest.raises(CaseError, match=r"case p1_a: patient: \(p\[0-9\]\+\) of data set own does not fit this id"):
        select(patient="(p[0-9]+)")
    with pytest.raises(SplitError, match=r"cases/final\.json: no such file; data\.splits, or `splits` of a data set"):
        select(splits="final.json")


@pytest.mark.parametrize("where", ["workers", "device"])
def test_batches_without_a_trainer_are_float32_and_augmented(brats: Path, where: Any) -> None:
    data = datamodule(brats, augment_on=where)
    data.prepare_data()
    data.setup("fit")
    for batch in data.train_dataloader():
        assert batch.keys() == {"image", "label", "case"}
        assert batch["image"].shape == (2, 3, 16, 16, 16) and batch["image"].dtype == torch.float32
        assert batch["label"].shape == (2, 16, 16, 16) and batch["label"].dtype == torch.uint8
    volume = next(iter(data.val_dataloader()))
    assert volume["image"].dtype == torch.float32
    prepared = data.prepared[volume["case"][0]]
    np.testing.assert_array_equal(volume["image"][0].numpy(), prepared.image.astype(np.float32))


def test_augmentation_on_the_device_is_that_of_the_workers(brats: Path) -> None:
    """But for what float16 rounds away on the way from a worker."""
    batches = []
    for where in ("workers", "device"):
        data = datamodule(brats, augment_on=where)
        data.prepare_data()
        data.setup("fit")
        batches.append(list(data.train_dataloader()))
    for ours, theirs in zip(*batches, strict=True):
        assert torch.equal(ours["label"], theirs["label"]) and ours["case"] == theirs["case"]
        torch.testing.assert_close(ours["image"], theirs["image"], atol=4e-3, rtol=1e-3)


@pytest.mark.parametrize("where", ["workers", "device"])
@pytest.mark.parametrize("fills", [None, {"flair": "t2"}])
def test_of_a_patch_only_what_is_dropped_is_changed(brats: Path, where: Any, fills: dict[str, str] | None) -> None:
    plain, dropped = (
        datamodule(brats, augment_on=where, patches_per_epoch=12, modality_dropout=chances, fill_absent=fills)
        for chances in (None, {"flair": 0.5})
    )
    for data in (plain, dropped):
        data.prepare_data()
        data.setup("fit")
    pairs = zip(*(torch.cat([b["image"] for b in data.train_dataloader()]) for data in (plain, dropped)), strict=True)
    missing = []
    for image, other in pairs:
        assert torch.equal(image[1:], other[1:])
        missing.append(torch.equal(other[0], image[2] if fills else torch.zeros_like(other[0])))
        assert missing[-1] or torch.equal(image[0], other[0])
    assert 2 <= sum(missing) <= 10


def test_predicting_reads_no_masks(tmp_path: Path) -> None:
    """They may be in the values of another data set, or broken."""
    folder = write_brats(tmp_path / "new", "BraTS-GLI-00001-000", presets()["brats2023"])
    nib.save(nib.Nifti1Image(np.full((40, 36, 32), 4, np.uint8), AFFINE), folder / "BraTS-GLI-00001-000-seg.nii.gz")
    write_brats(tmp_path / "new", "BraTS-GLI-00002-000", presets()["brats2023"])
    (tmp_path / "new/BraTS-GLI-00002-000/BraTS-GLI-00002-000-seg.nii.gz").write_bytes(b"broken")
    data = datamodule(tmp_path / "new", predict_root=tmp_path / "new")
    data.trainer = Predicting()  # type: ignore[assignment]
    data.prepare_data()
    data.setup("predict")
    assert [batch["case"][0] for batch in data.predict_dataloader()] == data.predict_cases
    assert len(data.predict_cases) == 2
    assert all(case.tumour is None for case in data.prepared.values())


@pytest.mark.parametrize("declared", ["auto", "nnunet"])
def test_images_alone_as_nnunet_predicts_them(tmp_path: Path, declared: str) -> None:
    volumes = tiny_volumes()[0]
    for folder, case in (("raw/imagesTr", "a"), ("raw/imagesTr", "b"), ("new", "c")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(volumes["flair"], AFFINE), tmp_path / folder / f"{case}_0000.nii.gz")
    content = {"channel_names": {"0": "flair"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "raw/dataset.json").write_text(json.dumps(content))
    data = datamodule(tmp_path / "raw", predict_root=tmp_path / "new", modalities=None, dataset=declared)
    data.trainer = Predicting()  # type: ignore[assignment]
    data.prepare_data()
    data.setup("predict")
    assert data.predict_cases == ["c"] and data.modalities == ("flair",)


def test_a_mask_pattern_that_fits_nothing_is_named(brats: Path, tmp_path: Path) -> None:
    own = {"images": {"flair": "{case}/{case}_flair"}, "mask": "{case}/{case}_sgm", "labels": {1: "NCR"}}
    (tmp_path / "own.yaml").write_text(json.dumps(own))
    data = datamodule(brats, dataset=tmp_path / "own.yaml", modalities=["flair"])
    with pytest.raises(CaseError, match=r"none of its 6 cases has a mask; no file fits {case}/{case}_sgm, the mask of"):
        data.prepare_data()


@pytest.mark.parametrize("root", ["none", "empty"])
def test_no_cases_to_predict(tmp_path: Path, root: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "new").mkdir()
    data = datamodule(tmp_path / root, predict_root=tmp_path / "new")
    data.trainer = Predicting()  # type: ignore[assignment]
    with pytest.raises(CaseError, match="new: no cases found"):
        data.prepare_data()


class Predicting:
    """What of a trainer the data module asks."""

    predicting, training, validating = True, False, False
    world_size, global_rank = 1, 0


def test_more_workers_than_cores_are_said(
    brats: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("raum_lightning.data.datamodule.usable_cores", lambda: 2)
    for workers in (2, 3):
        data = datamodule(brats, num_workers=workers)
        data.prepare_data()
        with caplog.at_level("INFO"):
            data.setup("fit")
        assert ("data.num_workers is 3, and there are 2 cores" in caplog.text) == (workers == 3)
