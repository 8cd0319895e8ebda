"""The notebooks, executed on synthetic cases: cells that only Colab can run are left out, parameters are replaced."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.helpers import EXPERIMENTS, ROOT
from tests.helpers.cases import write_brats_cases
from tests.helpers.small import shrink

COLAB = ROOT / "notebooks/colab.ipynb"
# lines that begin with ! are run in the kernel, which imports torch once, instead of a shell for each
IN_PROCESS = """
import shlex
from raum_lightning.cli import main

def system(line):
    assert main(shlex.split(get_ipython().var_expand(line, depth=1))[1:]) == 0, line

get_ipython().system = system
"""


def tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def text(cell: Any) -> str:
    """What a cell printed."""
    return "".join(output.get("text", "") for output in cell.outputs)


def test_they_are_kept_without_outputs() -> None:
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
        assert cells and not any(cell.outputs or cell.execution_count for cell in cells)
        assert path.stat().st_size < 10_000


@pytest.mark.slow
def test_colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session ends after two steps; in the next one all cells are run again up to the end of training."""
    write_brats_cases(tmp_path / "cases", 5)
    small = " ".join(shrink(EXPERIMENTS / "unetr_flair_t1ce.yaml", tmp_path)[2:])
    notebook = nbformat.read(COLAB, 4)
    assert [tags(cell) for cell in notebook.cells].count(["colab", "parameters"]) == 1
    cells = [cell for cell in notebook.cells if "colab" not in tags(cell)]
    (fit,) = [number for number, cell in enumerate(cells) if "fit" in tags(cell)]
    first, second = (
        nbformat.v4.new_code_cell(f'CASES, RUNS, OPTIONS = "cases", "drive", "{small} --trainer.max_steps {steps}"')
        for steps in (2, 4)
    )
    shell = nbformat.v4.new_code_cell(IN_PROCESS)
    notebook.cells = [shell, first, *cells[: fit + 1], second, nbformat.from_dict(cells[fit]), *cells[fit + 1 :]]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources=where).execute()

    said = [text(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert any("5 cases" in one for one in said), said
    begun, resumed = (text(cell) for cell in notebook.cells if "fit" in tags(cell))
    assert "4/4" in resumed and "4/4" not in begun, resumed
    assert (tmp_path / "drive/unetr_flair_t1ce/colab/checkpoints/last.ckpt").is_file()
    assert (tmp_path / "seg.nii.gz").is_file() and "<Segmentation of BraTS20_Training_001: WT" in said[-1]
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ()) if "data" in output]
    assert sum("image/png" in output.data for output in shown) == 2
