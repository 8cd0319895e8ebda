"""The search for steps, on predictions with faults that are known, through the command line."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from raum_lightning.cli import main
from raum_lightning.datasets import presets
from raum_lightning.labels import ED, ET, NCR
from raum_lightning.metrics.evaluation import evaluate
from raum_lightning.postprocess import Postprocess
from tests.helpers.cases import AFFINE, tiny_volumes

CASES = [f"BraTS-GLI-0000{number}-000" for number in range(4)]
CORNERS = ((2, 2, 2), (36, 30, 2), (2, 30, 28))


def write(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(presets()["brats2023"].decode(labels), AFFINE), path)


def place(root: Path, number: int, prediction: np.ndarray, reference: np.ndarray) -> None:
    write(root / f"predictions/{CASES[number]}.nii.gz", prediction)
    write(root / f"references/{CASES[number]}-seg.nii.gz", reference)


def with_specks(labels: np.ndarray) -> np.ndarray:
    """Three specks of 8 voxels of edema more."""
    specked = labels.copy()
    for corner in CORNERS:
        specked[tuple(slice(start, start + 2) for start in corner)] = ED
    return specked


def fit(root: Path, *words: str) -> int:
    given = ["--predictions", root / "predictions", "--references", root / "references", "--out", root / "post.yaml"]
    return main(["postprocess", "fit", *map(str, given), *words])


@pytest.mark.slow
@pytest.mark.parametrize("rules", ["brats2020", "brats2023", "brats2026"])
def test_specks_are_found_and_removed(tmp_path: Path, rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        place(tmp_path, number, with_specks(tiny_volumes(number)[1]), tiny_volumes(number)[1])
    assert fit(tmp_path, "--rules", rules) == 0
    shown = capsys.readouterr().out
    assert "min_mm3 WT" in shown and f"rules {rules}" in shown
    assert f"4 cases by the rules {rules}" in (tmp_path / "post.yaml").read_text()
    # specks have 8 voxels; of values that do the same the mildest is taken
    assert Postprocess.read(tmp_path / "post.yaml") == Postprocess(min_mm3={"WT": 10})


def test_cleaned_masks_are_written_and_nothing_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        place(tmp_path, number, with_specks(tiny_volumes(number)[1]), tiny_volumes(number)[1])
    (tmp_path / "post.yaml").write_text("min_mm3: {WT: 9}\n")
    words = [
        "--predictions",
        tmp_path / "predictions",
        "--postprocess",
        tmp_path / "post.yaml",
        "--out",
        tmp_path / "c",
    ]
    assert main(["postprocess", "apply", *map(str, words)]) == 0
    scores = evaluate(tmp_path / "c", tmp_path / "references", metrics=["lesion_dice", "hd95"])
    assert scores.summary["lesion_dice_mean"].mean == 1 and scores.summary["hd95_mean"].mean == 0
    # continued after it was ended: what is there is kept, and nothing of other steps is replaced
    ended, kept, *_ = sorted((tmp_path / "c").iterdir())
    ended.unlink()
    before = kept.stat()
    assert main(["postprocess", "apply", *map(str, words)]) == 0
    assert "1 masks cleaned, 3 were there already" in capsys.readouterr().out
    assert ended.is_file() and kept.stat() == before
    (tmp_path / "post.yaml").write_text("min_mm3: {WT: 8}\n")
    assert main(["postprocess", "apply", *map(str, words)]) == 2
    assert "exists and is not replaced" in capsys.readouterr().err
    # a region that is not there, and a folder that is a file, are found before the first case
    for text, out, said in (("holes: [XY]", "d", "names 'XY'"), ("holes: [WT]", "post.yaml", "post.yaml is no folder")):
        (tmp_path / "post.yaml").write_text(text)
        assert main(["postprocess", "apply", *map(str, words[:-1]), str(tmp_path / out)]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "d").exists()


@pytest.mark.slow
def test_a_step_that_harms_one_case_is_not_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        labels = tiny_volumes(number)[1]
        small = with_specks(labels) if number == 0 else labels
        place(tmp_path, number, small, small)
    assert fit(tmp_path) == 0
    assert Postprocess.read(tmp_path / "post.yaml") == Postprocess()
    assert "yes" not in capsys.readouterr().out


@pytest.mark.slow
def test_a_size_that_would_empty_a_region_keeps_its_largest_component(tmp_path: Path) -> None:
    for number in range(4):
        labels = np.zeros((24, 24, 24), np.uint8)
        labels[4:20, 4:20, 4:20] = ED
        labels[6:18, 6:18, 6:18] = NCR
        # a true tumour of 3 voxels, where any size harms; or one of 27 and two false ones of 8
        labels[(slice(7, 10),) * 3 if number < 2 else (slice(7, 10), 7, 7)] = ET
        false = labels.copy()
        for start in (12, 15) if number < 2 else ():
            false[start : start + 2, 12:14, start : start + 2] = ET
        place(tmp_path, number, false, labels)
    assert fit(tmp_path, "--rules", "brats2020") == 0
    assert Postprocess.read(tmp_path / "post.yaml") == Postprocess(min_mm3={"ET": 10}, keep_one=("ET",))


@pytest.mark.slow
def test_an_enhancing_tumour_of_some_voxels(tmp_path: Path) -> None:
    for number in range(4):
        labels = tiny_volumes(number)[1]
        labels[labels == ET] = NCR
        few = labels.copy()
        few[tuple(np.argwhere(labels == NCR)[0])] = ET
        place(tmp_path, number, few, labels)
    assert fit(tmp_path, "--rules", "brats2020") == 0
    assert Postprocess.read(tmp_path / "post.yaml") == Postprocess(min_mm3={"ET": 5})


def test_too_few_cases_and_files_of_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        place(tmp_path, number, tiny_volumes(number)[1], tiny_volumes(number)[1])
    assert fit(tmp_path) == 2 and "2 cases are too few to leave one out" in capsys.readouterr().err
    (tmp_path / "post.yaml").write_text("mine: true\n")
    assert fit(tmp_path) == 2 and "was not written by `raum postprocess`" in capsys.readouterr().err
