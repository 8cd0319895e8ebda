"""Every experiment that is shipped: it fits, tests and predicts, in a network that is small enough to do so here."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from raum_lightning.cli import main
from tests.helpers import EXPERIMENTS
from tests.helpers.cases import write_brats_cases

# what makes any of them small, and changes nothing that they state otherwise
SMALL: dict[str, dict[str, Any]] = {
    "module": {"overlap": 0, "warmup_steps": 1},
    "data": {"roi_size": [32, 32, 32], "patches_per_epoch": 4, "num_workers": 0, "batch_size": 2, "test_fraction": 0.3},
    "trainer": {"accelerator": "cpu", "precision": "32-true", "max_steps": 2, "logger": False, "callbacks": []},
}
SMALL_UNETR = {"img_size": [32, 32, 32], "embed_dim": 24, "num_heads": 2, "mlp_dim": 48, "feature_size": 4}


@pytest.mark.slow
@pytest.mark.parametrize("experiment", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_it_fits_tests_and_predicts(experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_brats_cases(tmp_path / "cases", 6)
    (tmp_path / "small.yaml").write_text(
        yaml.safe_dump(SMALL | {"module": SMALL["module"] | {"network": {"init_args": SMALL_UNETR}}})
    )
    words = ["-c", str(experiment), "-c", "small.yaml", "--data.root", "cases", "--run.id", "small"]
    for verb in ("fit", "test", "predict"):
        assert main([verb, *words]) == 0, verb
    (run,) = Path("runs").glob("*/small")
    assert (run / "checkpoints/last.ckpt").is_file()
    assert (run / "test/cases.csv").read_text().startswith("case,dice_wt,dice_tc,dice_et,dice_mean")
    assert len(list((run / "predictions").glob("*.nii.gz"))) == 2
