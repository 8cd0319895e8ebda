"""A fixed network on a fixed case: whatever changes the outcome of the way from files to labels shows here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from raum_lightning.inference.segmenter import Segmenter
from raum_lightning.labels import ED
from raum_lightning.models import UNETR
from raum_lightning.phantom import phantom_case, write_case
from tests.helpers.handmade import CARD


class Golden(nn.Module):
    """A tiny UNETR whose weights are a formula; in float64, so that machines agree."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {
            "embed_dim": 24,
            "depth": 4,
            "num_heads": 4,
            "mlp_dim": 48,
            "out_indices": (1, 2, 3, 4),
            "feature_size": 4,
        }
        self.unetr = UNETR(in_channels=3, out_channels=4, img_size=(32, 32, 32), **sizes).double()
        for position, (name, weight) in enumerate(self.unetr.named_parameters()):
            if weight.ndim > 1 or name.endswith("bias"):
                phases = torch.arange(weight.numel(), dtype=torch.float64) * 1.3 + position
                fan_in = max(weight.numel() // len(weight), 8)
                weight.data = (torch.sin(phases**2) * (2 / fan_in) ** 0.5).reshape(weight.shape)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.unetr(image.double())
        return logits


@pytest.mark.slow
def test_label_counts_are_those_on_record(tmp_path: Path) -> None:
    phantom = phantom_case(seed=0, index=0, shape=(48, 48, 40))
    write_case(phantom, tmp_path / "golden", "golden")
    segmenter = Segmenter([Golden()], CARD, device="cpu", precision="32-true", flips=2, overlap=0.5)
    result = segmenter.segment(tmp_path / "golden")
    counts = np.bincount(result.labels.ravel(), minlength=4)
    # moving one voxel in a hundred by the smallest step changes two of each class
    assert counts.tolist() == pytest.approx([76448, 2345, 13147, 220], abs=4)
    assert np.argwhere(result.labels == ED).mean(axis=0).tolist() == pytest.approx([23.64, 24.09, 20.30], abs=0.03)
