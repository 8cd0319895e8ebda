"""Keys of the release before: in configurations, in checkpoints, and when a run is resumed."""

from pathlib import Path

import pytest
import torch
import yaml

import raum_lightning
from raum_lightning.cli import main
from tests.helpers import DEBUG

pytestmark = pytest.mark.slow


def test_checkpoints_with_taps_load_and_resume(brats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fit", "-c", DEBUG, "--data.root", str(brats), "--trainer.logger", "false", "--run.id", "x"]
    assert main([*words, "--trainer.max_steps", "1", "--run.experiment", "debug"]) == 0
    path = Path("runs/debug/x/checkpoints/last.ckpt")
    content = torch.load(path, weights_only=True)
    config = yaml.safe_load(content["config"])
    for settings in (content["hyper_parameters"], config["module"]):
        arguments = settings["network"]["init_args"]
        arguments["taps"] = arguments.pop("out_indices")
    torch.save(content | {"config": yaml.safe_dump(config)}, path)
    with pytest.warns(FutureWarning, match="taps of UNETR is now out_indices"):
        segmenter = raum_lightning.load(path, device="cpu")
    assert segmenter.networks[0].vit.out_indices == (1, 2, 3, 4)

    resume = [*words, "--trainer.max_steps", "2", "--run.experiment", "debug", "--ckpt_path", "auto"]
    assert main(resume) == 0
    assert torch.load(path, weights_only=True)["global_step"] == 2
    former = tmp_path / "former.yaml"
    former.write_text("module: {network: {init_args: {taps: [1, 2, 3, 4]}}}")
    with pytest.warns(FutureWarning, match="rename the key"):
        assert main([*resume, "-c", str(former), "--trainer.max_steps", "3"]) == 0
