"""Entropy of the averaged probabilities, and the order in which a person should look at cases."""

import csv
import math
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import raum_lightning
from raum_lightning.cases.case import is_ours, read_remark
from raum_lightning.cli import main
from raum_lightning.errors import OutputError
from raum_lightning.inference.uncertainty import Review, entropy, estimated_dice
from tests.helpers.handmade import TRUST, fit_handmade


def channels(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [
        ("labels", (1, 0, 0, 0), 0),
        ("labels", (0.25, 0.25, 0.25, 0.25), 1),
        ("labels", (0.5, 0.5, 0, 0), 0.5),  # one bit of two
        ("regions", (1, 0), 0),
        ("regions", (0.9, 0.5), 1),  # the least sure region counts
        ("regions", (0.25, 0), 2 - 0.75 * math.log2(3)),
    ],
)
def test_entropy_by_hand(mode: str, values: tuple[float, ...], expected: float) -> None:
    assert entropy(channels(*values), mode).item() == pytest.approx(expected, abs=1e-6)


def test_estimated_dice_by_hand() -> None:
    # two voxels: of the region at .8, so in its mask, and at .3; and a region that is nowhere
    values = np.array([[0.2, 0.7], [0.8, 0.3], [0, 0]], np.float32).reshape(3, 2, 1, 1)
    mask = np.array([1, 0], np.uint8).reshape(2, 1, 1)
    regions = {"WT": (1,), "ET": (2,)}
    found = estimated_dice(values, mask, "labels", regions)
    assert found == {"WT": pytest.approx((2 * 0.8 + 1) / (0.8 + 0.3 + 1 + 1)), "ET": 1}
    # post-processing has left nothing of it
    found = estimated_dice(values, 0 * mask, "labels", regions)
    assert found == {"WT": pytest.approx(1 / (0.8 + 0.3 + 1)), "ET": 1}


@pytest.mark.parametrize(
    "table",
    [b"subject,comment\na,b\n", b"case,comment\na,b\n", b"case,estimated_dice\na,\n", b"case,estimated_dice\n\xfc,1"],
)
def test_a_table_of_others_is_left_alone(tmp_path: Path, table: bytes) -> None:
    (tmp_path / "review.csv").write_bytes(table)
    with pytest.raises(OutputError, match=r"review\.csv: was not written by `raum segment`, or changed since; move it"):
        Review(tmp_path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_handmade(tmp_path_factory.mktemp("uncertainty"))


def test_the_map_lies_on_the_case_and_is_no_mask(checkpoint: Path, tmp_path: Path) -> None:
    case = checkpoint.parents[3] / "phantom-cases/BraTS20_Training_001"
    out = tmp_path / "u.nii.gz"
    words = ["segment", "--checkpoint", str(checkpoint), "--trust", TRUST, "--case", str(case)]
    assert main([*words, "--out", str(tmp_path / "mask.nii.gz"), "--uncertainty", str(out), "--flips", "2"]) == 0
    written, flair = nib.load(out), nib.load(case / f"{case.name}_flair.nii.gz")
    values = np.asarray(written.dataobj)
    assert np.array_equal(written.affine, flair.affine) and values.shape == flair.shape
    assert (values[np.asarray(flair.dataobj) == 0] == 0).mean() > 0.9 and 0.1 < values.max() <= 1
    expected = entropy(raum_lightning.load(checkpoint, trust=TRUST, flips=2).segment(case).probabilities, "labels")
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert is_ours(out) and read_remark(out) is None


def test_the_least_sure_case_comes_first_and_rows_stay(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases, out = tmp_path / "cases", tmp_path / "out"
    names = [f"BraTS20_Training_{number:03d}" for number in (1, 2)]
    words = ["segment", "--checkpoint", str(checkpoint), "--trust", TRUST, "--cases", str(cases), "--out", str(out)]
    for name in names:  # one after the other, as when it is continued
        shutil.copytree(checkpoint.parents[3] / "phantom-cases" / name, cases / name)
        assert main(words) == 0
    assert f"{out}/review.csv: the cases, those first" in capsys.readouterr().out
    with (out / "review.csv").open() as file:
        rows = list(csv.DictReader(file))
    values = [float(row["estimated_dice"]) for row in rows]
    assert sorted(row["case"] for row in rows) == names and values == sorted(values)
    segmenter = raum_lightning.load(checkpoint, trust=TRUST)
    result = segmenter.segment(cases / rows[0]["case"])
    known = result.prediction
    dice = estimated_dice(result.probabilities, result.labels, known.mode, known.regions)
    assert values[0] == pytest.approx(np.mean(list(dice.values())), abs=1e-4)
    assert float(rows[0]["ml_wt"]) == pytest.approx(result.volumes["WT"], abs=1e-3)


def test_two_processes_share_a_table_and_the_temperature_counts(checkpoint: Path, tmp_path: Path) -> None:
    segmenter = raum_lightning.load(checkpoint, trust=TRUST)
    folders = [checkpoint.parents[3] / f"phantom-cases/BraTS20_Training_{number:03d}" for number in (1, 2)]
    sharp, soft = (segmenter.segment(folder) for folder in folders)
    soft = replace(soft, card=replace(soft.card, temperature=4.0))
    one, other = Review(tmp_path), Review(tmp_path)
    one.add(sharp)
    other.add(soft)
    with (tmp_path / "review.csv").open() as file:
        rows = {row["case"]: float(row["estimated_dice"]) for row in csv.DictReader(file)}
    regions = soft.prediction.regions
    expected = {
        result.case.id: np.mean([*estimated_dice(result.probabilities, result.labels, "labels", regions).values()])
        for result in (sharp, soft)
    }
    assert rows == pytest.approx(expected, abs=1e-4)
    certain = estimated_dice(soft.prediction.probabilities(), soft.labels, "labels", regions)
    assert rows[soft.case.id] < np.mean([*certain.values()]) - 0.01
