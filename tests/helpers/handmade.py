"""A network whose segmentations are known to be sensible without training, and a checkpoint of it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from raum_lightning.cli import main
from raum_lightning.inference.card import ModelCard
from tests.helpers import EXPERIMENTS

DEBUG = ["-c", str(EXPERIMENTS / "debug.yaml"), "--trainer.logger", "false"]
MODALITIES = ("flair", "t1ce", "t2")
TRUST = "tests.helpers"
CARD = ModelCard(
    modalities=MODALITIES,
    dataset="brats2020",
    label_values=(0, 1, 2, 4),
    classes=("background", "NCR", "ED", "ET"),
    regions={"WT": ("NCR", "ED", "ET"), "TC": ("NCR", "ET"), "ET": ("ET",)},
    orientation="LPS",
    spacing=(1.0, 1.0, 1.0),
    mode="labels",
    roi_size=(32, 32, 32),
    overlap=0.25,
    sw_batch_size=2,
)


class Handmade(nn.Conv3d):
    """Bright on FLAIR is edema, bright on T1ce enhancing, bright on T2 necrotic, on the mean of 3 x 3 x 3 voxels.

    They count more towards one corner, otherwise along each axis: what is seen turned or mirrored is seen differently.
    """

    def __init__(self, offset: float = 1.0) -> None:
        super().__init__(3, 4, 3, padding=1)
        x, y, z = torch.meshgrid(*[torch.arange(-1.0, 2)] * 3, indexing="ij")
        taps = (1 + (3 * x + 2 * y + z) / 7) / 27
        assert self.bias is not None
        with torch.no_grad():
            for label, channel, slope in ((2, 0, 4.0), (3, 1, 6.0), (1, 2, 5.0)):
                self.weight[label] = 0
                self.weight[label, channel] = slope * taps
                self.bias[label] = -slope * offset
            self.weight[0], self.bias[0] = 0, 0


def fit_handmade(root: Path, **init: float) -> Path:
    """Synthetic cases in `root`/runs/phantom-cases and a checkpoint of a run on them that changed no weight."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert main(["phantom", "runs/phantom-cases", "--cases", "5", "--shape", "56", "56", "48"]) == 0
        network = ["--module.network", "tests.helpers.handmade.Handmade"]
        network += [f"--module.network.init_args.{name}={value}" for name, value in init.items()]
        rest = ["--module.roi_size", "[32,32,32]", "--module.lr", "0", "--module.overlap", "0.25"]
        steps = ["--trainer.max_steps", "1", "--data.test_fraction", "0.4", "--run.id", "handmade"]
        assert main(["fit", *DEBUG, *network, *rest, *steps]) == 0
    return root / "runs/debug/handmade/checkpoints/last.ckpt"
