"""Every experiment that is shipped: it fits, tests and predicts, in a network that is small enough to do so here."""

from pathlib import Path

import pytest

from raum_lightning.cli import main
from tests.helpers import EXPERIMENTS
from tests.helpers.cases import write_brats_cases
from tests.helpers.small import shrink

pytestmark = pytest.mark.slow
SHIPPED = sorted(path for path in EXPERIMENTS.rglob("*.yaml") if path.parent.name not in ("sweeps", "hardware"))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cases, which are prepared once for all experiments that read the same modalities."""
    folder = tmp_path_factory.mktemp("experiments")
    write_brats_cases(folder / "cases", 6)
    return folder


@pytest.mark.parametrize("experiment", SHIPPED, ids=lambda path: path.stem)
def test_it_fits_tests_and_predicts(experiment: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    run = ["--run.experiment", experiment.stem, "--run.id", "small"]
    words = [*shrink(experiment, here), "--data.root", "cases", *run]
    for verb in ("fit", "test", "predict"):
        assert main([verb, *words]) == 0, verb
    folder = Path("runs", experiment.stem, "small")
    assert (folder / "checkpoints/last.ckpt").is_file()
    assert (folder / "test/cases.csv").read_text().startswith("case,dice_wt,dice_tc,dice_et,dice_mean")
    assert len(list((folder / "predictions").glob("*.nii.gz"))) == 2
    if experiment.parent.name == "baselines":
        network = ["--checkpoint", str(folder / "checkpoints/last.ckpt")]
        assert main(["segment", *network, "--case", "cases/BraTS20_Training_001", "--out", f"{folder}/seg.nii.gz"]) == 0
