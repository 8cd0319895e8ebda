"""`raum segment --cases`: a folder of cases, continued where it stopped."""

import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from raum_lightning.cli import main
from raum_lightning.inference.segmenter import Segmenter
from tests.helpers.handmade import TRUST, fit_handmade


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_handmade(tmp_path_factory.mktemp("folder"))


@pytest.fixture
def cases(checkpoint: Path, tmp_path: Path) -> Path:
    """Three cases, of which the second lacks T1ce."""
    folder = tmp_path / "cases"
    for number in (1, 2, 3):
        name = f"BraTS20_Training_{number:03d}"
        shutil.copytree(checkpoint.parents[3] / "phantom-cases" / name, folder / name)
    (folder / "BraTS20_Training_002/BraTS20_Training_002_t1ce.nii.gz").unlink()
    return folder


@pytest.fixture
def segmented(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of the cases that the network sees."""
    seen: list[str] = []
    whole = Segmenter.segment

    def watched(self: Segmenter, source: Any, **options: Any) -> Any:
        seen.append(source.id)
        return whole(self, source, **options)

    monkeypatch.setattr(Segmenter, "segment", watched)
    return seen


def segment(checkpoint: Path, *words: str | Path) -> int:
    return main(["segment", "--checkpoint", str(checkpoint), "--trust", TRUST, *map(str, words)])


def test_all_but_the_broken_case_are_segmented_once(
    checkpoint: Path, cases: Path, tmp_path: Path, segmented: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert segment(checkpoint, "--cases", cases, "--out", out) == 1
    assert sorted(path.name for path in out.glob("*.nii.gz")) == [f"BraTS20_Training_00{n}.nii.gz" for n in (1, 3)]
    said = capsys.readouterr().out
    assert f"{out}: 2 of 3 cases segmented, 0 were there already\n" in said
    rows = (out / "volumes.csv").read_text().splitlines()
    assert rows[0] == "case,WT,TC,ET" and [row.split(",")[0][-3:] for row in rows[1:]] == ["001", "003"]
    assert (out / "brats2020.txt").exists() and (out / "brats2020.ctbl").exists()
    assert "BraTS20_Training_002 was not segmented: case BraTS20_Training_002: t1ce is missing" in said
    one = tmp_path / "one.nii.gz"
    assert segment(checkpoint, "--case", cases / "BraTS20_Training_003", "--out", one) == 0
    masks = [np.asarray(nib.load(path).dataobj) for path in (one, out / "BraTS20_Training_003.nii.gz")]
    assert masks[0].any() and np.array_equal(*masks)
    # as after a kill between the first and the third
    (out / "BraTS20_Training_003.nii.gz").unlink()
    shutil.rmtree(cases / "BraTS20_Training_002")
    segmented.clear()
    assert segment(checkpoint, "--cases", cases, "--out", out) == 0
    assert segmented == ["BraTS20_Training_003"]
    assert f"{out}: 1 of 2 cases segmented, 1 were there already\n" in capsys.readouterr().out


def test_other_settings_and_images_replace_what_is_there(
    checkpoint: Path, cases: Path, tmp_path: Path, segmented: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(cases / "BraTS20_Training_002")
    words = ["--cases", cases, "--out", tmp_path / "out"]
    assert segment(checkpoint, *words) == 0
    segmented.clear()
    assert segment(checkpoint, *words, "--flips", "2") == 0
    assert len(segmented) == 2 and "2 were of other weights, settings or images" in capsys.readouterr().out
    image = cases / "BraTS20_Training_001/BraTS20_Training_001_flair.nii.gz"
    other = cases / "BraTS20_Training_003/BraTS20_Training_003_flair.nii.gz"
    image.write_bytes(other.read_bytes())
    segmented.clear()
    assert segment(checkpoint, *words, "--flips", "2") == 0
    assert segmented == ["BraTS20_Training_001"]


def test_what_cannot_be_written_is_said_before_the_first_case(
    checkpoint: Path, cases: Path, tmp_path: Path, segmented: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / "out/BraTS20_Training_003.nii.gz"
    foreign.parent.mkdir()
    shutil.copy(cases / "BraTS20_Training_003/BraTS20_Training_003_flair.nii.gz", foreign)
    assert segment(checkpoint, "--cases", cases, "--out", foreign.parent) == 2
    assert capsys.readouterr().err == (
        f"error: {foreign}: was not written by raum, which would replace it; give another folder\n"
    )
    for option, file, said in (
        ("--figure", "a.png", "--figure is for one case; give it with --case"),
        ("--probabilities", "p.nii.gz", "--probabilities names a file, which holds one case; with --cases give a"),
    ):
        assert segment(checkpoint, "--cases", cases, "--out", tmp_path, option, file) == 2
        assert said in capsys.readouterr().err
    assert segment(checkpoint, "--cases", cases, "--case", cases, "--out", tmp_path) == 2
    assert "or a folder of cases as --cases" in capsys.readouterr().err
    assert segmented == []
