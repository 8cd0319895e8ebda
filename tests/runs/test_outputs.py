"""What a command may write, and what it may replace: its own files and no others."""

import json
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from raum_lightning.cli import main
from raum_lightning.datasets import presets
from raum_lightning.errors import OutputError
from raum_lightning.runs.folder import RunFolder
from raum_lightning.runs.outputs import check_output
from tests.helpers.cases import write_brats


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with what `fit` and `test` write as text, and two cases with predictions beside it."""
    run = RunFolder(tmp_path / "run")
    for path in (run.config, run.splits, run.metrics, run.of("test").cases):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("written by fit")
    for number in (1, 2):
        name = f"BraTS20_Training_{number:03d}"
        case = write_brats(tmp_path / "cases", name, presets()["brats2020"], seed=number)
        (tmp_path / "predictions").mkdir(exist_ok=True)
        (tmp_path / "predictions" / f"{name}.nii.gz").write_bytes((case / f"{name}_seg.nii.gz").read_bytes())
    return run


def evaluate(run: RunFolder, out: Path) -> int:
    folders = ["--predictions", str(run.path.parent / "predictions"), "--references", str(run.path.parent / "cases")]
    return main(["evaluate", *folders, "--metrics", "dice", "--out", str(out)])


@pytest.mark.parametrize("name", ["metrics.json", "test/cases.json", "splits.json"])
def test_evaluate_replaces_no_file_of_a_run(run: RunFolder, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert evaluate(run, run.path / name) == 2
    assert "is a name that `lightning` uses in the folder of a run" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_evaluate_replaces_its_own_files_and_no_table_of_others(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert evaluate(run, tmp_path / "scores.json") == 0
    (tmp_path / "mine.csv").write_text("case,dice\n")
    assert evaluate(run, tmp_path / "mine.json") == 2
    assert "mine.csv: exists and was not written by `raum evaluate`" in capsys.readouterr().err
    assert (tmp_path / "mine.csv").read_text() == "case,dice\n" and not (tmp_path / "mine.json").exists()


def test_a_page_is_no_json(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "page.html").write_text(json.dumps({}))
    for name, said in (("m.json", "the name must end in .html"), ("page.html", "was not written by `raum report`")):
        assert main(["report", str(run.path), "--out", str(tmp_path / name)]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_a_picture_replaces_a_picture_of_ours(run: RunFolder, ending: str, capsys: pytest.CaptureFixture[str]) -> None:
    case = run.path.parent / "cases/BraTS20_Training_001"
    out = run.path.parent / f"case.{ending}"
    for _ in range(2):
        assert main(["view", str(case), "--out", str(out)]) == 0
    out.write_bytes(b"\x89PNG of another program")
    assert main(["view", str(case), "--out", str(out)]) == 2
    assert "exists and was not written by `raum view`" in capsys.readouterr().err


def test_what_cannot_be_written_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_output(tmp_path / "new" / "folder" / "a.html", "raum report")
    with pytest.raises(OutputError, match="exists and was not written by"):
        check_output(Path("/dev/null"), "raum report")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file is no folder; give another name"):
        check_output(tmp_path / "file" / "a.html", "raum report")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(OutputError, match=r"may not be written to; give another name"):
        check_output(tmp_path / "a.html", "raum report")


def test_a_mask_of_another_program_is_not_replaced(run: RunFolder) -> None:
    mask = run.path.parent / "mine.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4)), mask)
    from raum_lightning.cases.case import is_ours

    with pytest.raises(OutputError, match="exists and was not written by `raum segment`"):
        check_output(mask, "raum segment", ours=is_ours)
