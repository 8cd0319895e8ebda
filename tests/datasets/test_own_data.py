"""docs/own_data.md: its YAML and its commands, in order, on a folder that nobody prepared for."""

import re
import shlex
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from matplotlib.image import imread

from raum_lightning.cli import main
from raum_lightning.phantom import phantom_case
from tests.helpers import EXPERIMENTS, ROOT

PAGE = (ROOT / "docs/own_data.md").read_text()


def block(name: str) -> str:
    found = re.search(rf"<!-- test: {re.escape(name)} -->\n```\w+\n(.*?)```", PAGE, re.DOTALL)
    assert found, name
    return found[1]


def write_clinic(root: Path) -> None:
    for index in range(4):
        phantom = phantom_case(seed=1, index=index, shape=(40, 40, 36))
        folder = root / ("north", "south")[index % 2] / f"p{index + 1:02d}"
        folder.mkdir(parents=True)
        nib.save(nib.Nifti1Image(phantom.images["flair"], phantom.affine), folder / "scan.nii")
        mask = np.where(phantom.labels > 0, 7, 0).astype(np.uint8)
        nib.save(nib.Nifti1Image(mask, phantom.affine), folder / "tumor.nii")


def test_the_page_is_short() -> None:
    assert len(block("mine.yaml").splitlines()) <= 8


@pytest.mark.slow
def test_its_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_clinic(tmp_path / "clinic")
    (tmp_path / "mine.yaml").write_text(block("mine.yaml"))
    run = yaml.safe_load(block("mine_run.yaml"))
    run["base"] = str(EXPERIMENTS / "debug.yaml")  # the same network, tiny
    run["trainer"] = {"logger": False, "max_steps": 2, "check_val_every_n_epoch": 1}
    run["data"] |= {"patches_per_epoch": 4}
    (tmp_path / "mine_run.yaml").write_text(yaml.safe_dump(run))
    for line in block("commands").splitlines():
        program, *words = shlex.split(line)
        assert program == "raum" and main(words) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert "labels of mine" in said and "TUMOUR" in said
    values = np.unique(np.asarray(nib.load(tmp_path / "p01.nii.gz").dataobj))
    assert set(values) <= {0, 7} and imread(tmp_path / "p01.png").shape[1] <= 1600
    predicted = tmp_path / "runs/mine_run/first/predictions"
    assert (predicted / "volumes.csv").read_text().startswith("case,tumour\n")
    assert '"tumour"' in (predicted / "mine.txt").read_text()
