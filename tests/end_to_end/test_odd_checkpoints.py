"""A checkpoint that is whole, but holds something else than Lightning wrote, is refused in one sentence."""

from pathlib import Path
from typing import Any

import pytest
import torch

from raum_lightning.cli import main
from tests.helpers.handmade import DEBUG, fit_handmade

CHANGES: dict[str, dict[str, Any]] = {
    "no weights": {"state_dict": None},
    "weights that are no tensors": {"state_dict": {"network.weight": "x"}},
    "no optimiser": {"optimizer_states": None},
    "an optimiser that is none": {"optimizer_states": ["x"]},
    "no schedule": {"lr_schedulers": None},
    "loops that are none": {"loops": {"fit_loop": 5}},
    "callbacks that are none": {"callbacks": [1]},
    "random numbers that are none": {"callbacks": {"RandomState": {"python": 1}}},
    "no version": {"pytorch-lightning_version": None},
    "loops of text": {"loops": "x"},
    "a step that is none": {"global_step": [1]},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_handmade(tmp_path_factory.mktemp("odd"))


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_it_is_not_resumed_from(
    trained: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = trained.parents[4]
    monkeypatch.chdir(root)
    content = torch.load(trained, weights_only=True) | changes
    torch.save({key: value for key, value in content.items() if value is not None}, root / "odd.ckpt")
    network = ["--module.network", "tests.helpers.handmade.Handmade", "--module.roi_size", "[32,32,32]"]
    rest = ["--data.test_fraction", "0.4", "--trainer.max_steps", "3", "--ckpt_path", "odd.ckpt"]
    assert main(["fit", *DEBUG, *network, *rest]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and ("odd.ckpt" in said[0] or "of another network" in said[0])
