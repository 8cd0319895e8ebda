"""The page on Python, run as it stands."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tests.helpers import ROOT
from tests.helpers.markdown import blocks


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    code = blocks(ROOT / "docs/python.md", "python")
    assert len(code) == 4
    for block in code:
        exec(compile(block, "docs/python.md", "exec"), names)
    assert set(names["module"].case_scores) == set(names["data"].split.test)
    mask = nib.load("seg.nii.gz")
    assert mask.shape == (48, 48, 40) and set(np.unique(np.asarray(mask.dataobj))) <= {0, 1, 2, 4}
    assert "'dice_mean': 1.0" in capsys.readouterr().out
