"""Where steps are used: `raum segment`, `test`, `predict`, and the model card."""

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from raum_lightning.cli import main
from raum_lightning.postprocess import Postprocess, clean
from tests.helpers.handmade import DEBUG, fit_handmade

STEPS = Postprocess(largest={"WT": 1}, min_mm3={"ET": 400})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_handmade(tmp_path_factory.mktemp("steps"))


@pytest.fixture
def steps(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = checkpoint.parents[4]
    monkeypatch.chdir(root)
    path = root / "post.yaml"
    path.write_text(STEPS.to_yaml())
    return path


def segment(checkpoint: Path, out: str, *words: str | Path) -> np.ndarray:
    case = sorted(Path("runs/phantom-cases").glob("BraTS*"))[0]
    given = ["--checkpoint", checkpoint, "--case", case, "--out", out, "--trust", "tests.helpers.handmade"]
    assert main(["segment", *map(str, given), *map(str, words)]) == 0
    return np.asarray(nib.load(out).dataobj)


def as_indices(mask: np.ndarray) -> np.ndarray:
    return np.where(mask == 4, 3, mask).astype(np.uint8)


def test_segment_cleans_by_a_file(checkpoint: Path, steps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = segment(checkpoint, "raw.nii.gz")
    assert "cleaned" not in capsys.readouterr().out
    cleaned = segment(checkpoint, "clean.nii.gz", "--postprocess", steps)
    assert f"cleaned: {STEPS} (--postprocess none" in capsys.readouterr().out
    expected = clean(as_indices(raw), STEPS, (1, 1, 1))
    assert (as_indices(cleaned) == expected).all() and (cleaned != raw).any()


def test_segment_cleans_as_the_model_card_says(
    checkpoint: Path, steps: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    content["model_card"]["postprocess"] = STEPS.plain
    torch.save(content, "carded.ckpt")
    carded = segment(Path("carded.ckpt"), "carded.nii.gz")
    assert "cleaned: " in capsys.readouterr().out
    assert (carded == segment(checkpoint, "clean.nii.gz", "--postprocess", steps)).all()
    without = segment(Path("carded.ckpt"), "none.nii.gz", "--postprocess", "none")
    assert (without == segment(checkpoint, "raw.nii.gz")).all()


def test_test_prints_both_and_predict_writes_the_cleaned(
    checkpoint: Path, steps: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    words = ["-c", str(checkpoint.parents[1] / "config.yaml"), "--trainer.logger", "false"]
    words += ["--module.postprocess", str(steps)]
    assert main(["test", *words]) == 0
    assert "cleaned" in capsys.readouterr().out
    rows = list(csv.DictReader((checkpoint.parents[1] / "test/cases.csv").read_text().splitlines()))
    assert any(row["dice_wt"] != row["cleaned/dice_wt"] for row in rows)
    assert main(["predict", *words]) == 0
    for path in (checkpoint.parents[1] / "predictions").glob("*.nii.gz"):
        labels = as_indices(np.asarray(nib.load(path).dataobj))
        assert (clean(labels, STEPS, (1, 1, 1)) == labels).all()


def test_a_run_keeps_its_steps_in_the_model_card(checkpoint: Path, steps: Path) -> None:
    words = ["--module.postprocess", str(steps), "--run.id", "kept", "--trainer.max_steps", "1"]
    assert main(["fit", *DEBUG, *words, "--data.root", "runs/phantom-cases"]) == 0
    card = torch.load("runs/debug/kept/checkpoints/last.ckpt", weights_only=True)["model_card"]
    assert Postprocess.of(card["postprocess"]) == STEPS
