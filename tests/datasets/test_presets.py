"""Every data set that comes with the package, on synthetic cases in its layout: from files to scores and back."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import nibabel as nib
import numpy as np
import pytest
import yaml

import raum_lightning
from raum_lightning import UNETR, BratsDataModule, SegmentationModule
from raum_lightning.cases.discovery import find_cases
from raum_lightning.cli import main
from raum_lightning.datasets import load, names
from raum_lightning.datasets.description import SCORING
from raum_lightning.metrics import RULES, find_rules
from raum_lightning.phantom import write_phantoms
from tests.helpers import EXPERIMENTS

SHAPE = (36, 36, 32)
CSV = {"class_path": "raum_lightning.loggers.CSVLogger"}


@pytest.mark.parametrize("name", names())
def test_scoring_names_rules_that_there_are(name: str) -> None:
    known = load(name).scoring
    assert find_rules(known).name == {"default": "brats2020"}.get(known, known)


def test_a_data_set_may_name_every_rule() -> None:
    assert sorted(SCORING) == sorted(["default", *RULES])


@pytest.mark.parametrize(
    ("name", "reach", "small_mm3"),
    [
        ("brats2023", 3, 50),
        ("brats-ssa", 3, 50),
        ("brats-ped-2023", 3, 50),
        ("brats-men", 1, 50),
        ("brats-met-2023", 1, 2),
    ],
)
def test_data_sets_of_2023_have_the_parameters_of_their_challenge(name: str, reach: int, small_mm3: float) -> None:
    rules = find_rules(load(name).scoring)
    assert rules.name.startswith("brats2023") and (rules.reach, rules.small_mm3) == (reach, small_mm3)


@pytest.mark.slow
@pytest.mark.parametrize("name", names())
def test_synthetic_cases_are_found_checked_and_read_back(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_phantoms(tmp_path, cases=2, shape=SHAPE, dataset=load(name), progress=False)
    assert write_phantoms(tmp_path, cases=2, shape=SHAPE, dataset=load(name), progress=False) == 0
    cases = find_cases(tmp_path, name)
    known = cases[0].dataset
    assert len(cases) == 2 and all(case.label for case in cases)
    seen: set[int] = set()
    for case in cases:
        image, labels, _ = case.read_labelled(known.modalities)
        assert image.shape == (len(known.modalities), *SHAPE) and labels is not None
        assert (image[0] == 0).any() and (image[0] != 0).any()  # with skull or without, what is outside is 0
        seen |= set(np.unique(labels).tolist())
        values = np.unique(np.asarray(nib.load(case.label).dataobj))
        assert set(values.tolist()) <= {0, *known.labels}
    assert seen == set(range(known.num_classes))
    assert main(["check", str(tmp_path), "--dataset", name]) == 0


# one of each kind, by the command line, and the channels of its network
FULL = {
    "brats-ped": "regions",
    "brats2024": "regions",
    "brats-men-rt": "labels",
    "msd-task01": "labels",
    "nnunet": "regions",
    "bids": "labels",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_one_of_each_kind_trains_is_scored_segmented_and_drawn(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_phantoms(tmp_path / "cases", cases=4, shape=SHAPE, dataset=load(name), progress=False)
    known = find_cases("cases", name)[0].dataset
    regions = [f"dice_{region.lower()}" for region in known.regions]
    config = {
        "base": str(EXPERIMENTS / "debug.yaml"),
        "module": {
            "loss": {
                "class_path": "raum_lightning.losses.DiceCELoss",
                "init_args": {"mode": FULL[name]},
            },
            "metrics": ["dice"],
        },
        "data": {"root": "cases", "dataset": name, "modalities": list(known.modalities), "patches_per_epoch": 4},
        "trainer": {"max_steps": 2, "logger": CSV, "enable_progress_bar": False},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    run = ["-c", "run.yaml", "--run.id", "a"]
    assert main(["fit", *run]) == 0
    logged = (tmp_path / "runs/run/a/metrics.csv").read_text().partition("\n")[0].split(",")
    assert {f"val/{column}" for column in (*regions, "dice_mean")} <= set(logged)
    split = json.loads((tmp_path / "runs/run/a/splits.json").read_text())
    if known.splits:
        assert split["val"] == [find_cases("cases", name)[0].id] and len(split["train"]) == 3 and not split["test"]
    else:
        assert main(["test", *run]) == 0
    assert main(["predict", *run, "--data.predict_root", "cases"]) == 0
    predictions = "runs/run/a/predictions"
    sides = ["--predictions", predictions, "--references", "cases"]
    assert main(["evaluate", *sides, "--dataset", name, "--metrics", "dice", "--out", "scores.json"]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())["cases"]
    assert len(scores) == 4
    for row in scores.values():
        assert {column for column in row if "dice" in column} == {*regions, "dice_mean"}
    case = find_cases("cases", name)[0].id
    view = [
        "view",
        "cases",
        "--id",
        case,
        "--dataset",
        name,
        "--prediction",
        f"{predictions}/{known.prediction_file(case)}",
    ]
    assert main([*view, "--out", "case.png"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*names()} - {*FULL}))
def test_each_other_does_so_by_a_trainer_in_python(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same way with as little of the command line as there can be, which takes most of the time above."""
    root, masks, checkpoint = tmp_path / "cases", tmp_path / "masks", tmp_path / "own.ckpt"
    write_phantoms(root, cases=3, shape=SHAPE, dataset=load(name), progress=False)
    small: dict[str, Any] = {"roi_size": (32, 32, 32), "patches_per_epoch": 4, "num_workers": 0, "test_fraction": 0.3}
    data = BratsDataModule(root, dataset=name, prepared_dir=tmp_path / "prepared", **small)
    known, sizes = data.dataset, {"img_size": 32, "embed_dim": 24, "depth": 4, "num_heads": 2, "mlp_dim": 48}
    network = UNETR(
        **{"in_channels": len(data.modalities), "out_channels": known.num_classes, "out_indices": (1, 2, 3, 4)},
        **sizes | {"feature_size": 4},
    )
    module = SegmentationModule(network, warmup_steps=1, overlap=0, metrics=["dice"])
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(accelerator="cpu", max_steps=2, enable_checkpointing=False, num_sanity_val_steps=0, **quiet)
    trainer.fit(module, datamodule=data)
    regions = {f"dice_{region.lower()}" for region in known.regions}
    (tested,) = trainer.test(module, datamodule=data, verbose=False)
    assert {f"test/{column}" for column in (*regions, "dice_mean")} <= set(tested)
    assert module.rules.name == {"default": "brats2020"}.get(known.scoring, known.scoring)
    trainer.save_checkpoint(checkpoint)
    segmenter = raum_lightning.load(checkpoint, device="cpu")
    for case in find_cases(root, name):
        segmenter.segment(case).save(masks / case.prediction_file)
    sides = ["--predictions", str(masks), "--references", str(root), "--dataset", name, "--metrics", "dice"]
    assert main(["evaluate", *sides, "--out", str(tmp_path / "scores.json")]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())["cases"]
    assert len(scores) == 3 and all(regions <= set(row) for row in scores.values())
    view = ["view", str(root), "--id", case.id, "--dataset", name, "--prediction", str(masks / case.prediction_file)]
    assert main([*view, "--out", str(tmp_path / "case.png")]) == 0


@pytest.mark.slow
def test_pediatric_cases_have_et_where_et_is_and_are_refused_undeclared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_phantoms(tmp_path / "c", cases=4, shape=(48, 48, 40), dataset=load("brats-ped"), progress=False)
    write_phantoms(tmp_path / "gli", cases=4, shape=(48, 48, 40), progress=False)
    for child, adult in zip(find_cases(tmp_path / "c", "brats-ped"), find_cases(tmp_path / "gli"), strict=True):
        enhancing = child.read_label()[0] == child.dataset.classes.index("ET")
        np.testing.assert_array_equal(enhancing, adult.read_label()[0] == adult.dataset.classes.index("ET"))
        np.testing.assert_array_equal(enhancing, np.asarray(nib.load(child.label).dataobj) == 1)
    assert main(["check", str(tmp_path / "c")]) == 2
    said = capsys.readouterr().err
    assert "brats-ped-2023 and brats-ped" in said and "--dataset" in said


def test_raum_datasets_lists_them_and_prints_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["datasets"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in names())
    assert "1 NCR, 2 ED, 3 ET, 4 RC" in listed and "http" not in listed  # nothing is wrapped or cut
    assert main(["datasets", "brats-ped"]) == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    assert load(tmp_path / "mine.yaml") == load("brats-ped")
    assert main(["datasets", "brats1999"]) == 2
