"""`ignore`: voxels that nobody labelled count in no score, from the mask's file to the tables."""

import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from raum_lightning.cli import main
from raum_lightning.phantom import phantom_case
from tests.helpers import EXPERIMENTS

MINE = """
images: {scan: "{case}/scan"}
mask: "{case}/mask"
labels: {7: tumour}
ignore: 255
"""


def dice(prediction: Path, mask: Path) -> float:
    """Dice of the two files over the voxels that are not 255 in the mask."""
    target = np.asarray(nib.load(mask).dataobj)
    guess, truth = np.asarray(nib.load(prediction).dataobj) == 7, target == 7
    guess[target == 255] = False
    return float(2 * (guess & truth).sum() / (guess.sum() + truth.sum()))


@pytest.mark.slow
def test_they_count_in_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cases = [f"p{number}" for number in range(4)]
    for number, case in enumerate(cases):
        phantom = phantom_case(seed=1, index=number, shape=(40, 40, 36))
        mask = np.where(phantom.labels > 0, 7, 0).astype(np.uint8)
        mask[:, :, np.flatnonzero(mask.any((0, 1))).mean().astype(int) :] = 255  # half of the tumour and what is above
        (tmp_path / "root" / case).mkdir(parents=True)
        nib.save(nib.Nifti1Image(phantom.images["flair"], phantom.affine), tmp_path / "root" / case / "scan.nii")
        nib.save(nib.Nifti1Image(mask, phantom.affine), tmp_path / "root" / case / "mask.nii")
    (tmp_path / "mine.yaml").write_text(MINE)
    config = {
        "base": str(EXPERIMENTS / "debug.yaml"),
        "seed_everything": 1,
        "data": {"root": "root", "dataset": "mine.yaml", "modalities": ["scan"], "patches_per_epoch": 4},
        "module": {"lr": 1e-7},  # as it was drawn: some of everything is called tumour
        "trainer": {"max_steps": 1, "logger": False},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    for verb, *words in (["fit"], ["test"], ["predict", "--data.predict_root", "root"]):
        assert main([verb, "-c", "run.yaml", "--run.id", "a", *words]) == 0
    predictions = tmp_path / "runs/run/a/predictions"
    expected = {case: dice(predictions / f"{case}.nii.gz", tmp_path / "root" / case / "mask.nii") for case in cases}
    assert min(expected.values()) > 0  # or the comparison would say nothing

    with (tmp_path / "runs/run/a/test/cases.csv").open(newline="") as file:
        tested = {row["case"]: float(row["dice_tumour"]) for row in csv.DictReader(file)}
    assert tested and tested == pytest.approx({case: expected[case] for case in tested}, abs=1e-6)

    sides = ["--predictions", str(predictions), "--references", "root", "--dataset", "mine.yaml"]
    assert main(["evaluate", *sides, "--out", "scores.json"]) == 0
    rows = json.loads((tmp_path / "scores.json").read_text())["cases"]
    assert {case: row["dice_tumour"] for case, row in rows.items()} == pytest.approx(expected, abs=1e-6)
