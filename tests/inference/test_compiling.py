"""The network under `torch.compile`: the same numbers, the same checkpoints, and no compiling of one thing twice."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from raum_lightning import UNETR, BratsDataModule, SegmentationModule
from raum_lightning.inference.compiling import compile_network, in_batches_of
from raum_lightning.inference.segmenter import Segmenter
from tests.helpers.handmade import CARD

pytestmark = pytest.mark.compile


class Convolution(nn.Module):
    """As little as there is to compile, so that a C++ compiler is busy for seconds only."""

    img_size = (16, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 4, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image) * 2


def fit(module: pl.LightningModule, root: Path, folder: Path, **options: Any) -> tuple[pl.Trainer, BratsDataModule]:
    cases = BratsDataModule(
        root, roi_size=(16, 16, 16), patches_per_epoch=4, num_workers=0, prepared_dir=folder / "prepared", seed=0
    )
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(default_root_dir=folder, enable_checkpointing=False, **quiet, **options)
    trainer.fit(module, datamodule=cases)
    return trainer, cases


def module_of(**options: Any) -> SegmentationModule:
    torch.manual_seed(0)
    return SegmentationModule(Convolution(), sw_batch_size=3, overlap=0.25, lr=1e-2, warmup_steps=1, **options)


def test_a_compiled_run_learns_and_scores_as_an_eager_one(brats: Path, tmp_path: Path) -> None:
    eager, compiled = module_of(), module_of(compile=True)
    fit(eager, brats, tmp_path / "eager", max_epochs=2)
    torch._dynamo.reset()
    counters.clear()
    trainer, cases = fit(compiled, brats, tmp_path / "compiled", max_epochs=2)
    # once to train and once for windows, however many windows the last batch of a volume has
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]
    assert eager.case_scores.keys() == compiled.case_scores.keys()
    for case, scores in eager.case_scores.items():
        assert compiled.case_scores[case] == pytest.approx(scores, abs=0.02), case
    torch.testing.assert_close(compiled.state_dict(), eager.state_dict(), rtol=1e-2, atol=1e-3)

    trainer.save_checkpoint(tmp_path / "compiled.ckpt")
    again = SegmentationModule.load_from_checkpoint(tmp_path / "compiled.ckpt", network=Convolution())
    assert again.compiles
    image = torch.randn(1, 3, 16, 16, 16)
    torch.testing.assert_close(again.network(image), compiled.network(image))
    (scores,) = trainer.validate(again, datamodule=cases, verbose=False)
    assert scores["val/dice_mean"] == pytest.approx(trainer.callback_metrics["val/dice_mean"].item())


@pytest.mark.parametrize("checkpointing", ["none", "all"])
def test_the_network_is_one_graph(checkpointing: str) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    sizes = {
        "img_size": 16,
        "patch_size": 4,
        "embed_dim": 8,
        "depth": 2,
        "num_heads": 2,
        "mlp_dim": 16,
        "out_indices": (1, 2),
    }
    network = UNETR(**sizes, feature_size=2, checkpointing=checkpointing)
    image = torch.randn(2, 3, 16, 16, 16)
    graph = torch.compile(network, backend="aot_eager", dynamic=False, fullgraph=True)
    expected, logits = network(image), graph(image)
    torch.testing.assert_close(logits, expected)
    parameters = list(network.parameters())
    for ours, theirs in zip(
        *(torch.autograd.grad(y.square().sum(), parameters) for y in (logits, expected)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_compiled_segmenter_says_the_same(brats: Path) -> None:
    card = replace(CARD, orientation="RPS", roi_size=(16, 16, 16), sw_batch_size=3)
    eager, compiled = (
        Segmenter([module_of().network], card, device="cpu", compile=choice).segment(brats / "BraTS20_Training_001")
        for choice in (False, True)
    )
    assert eager.labels.any()
    np.testing.assert_allclose(compiled.probabilities, eager.probabilities, atol=1e-5)


def test_windows_come_in_whole_batches() -> None:
    seen = []

    def network(images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return images * 2

    images = torch.randn(5, 2, 3, 3, 3)
    padded = in_batches_of(4, network)
    for count in (1, 3, 4, 5):
        assert torch.equal(padded(images[:count]), images[:count] * 2)
    assert seen == [4, 4, 4, 5]


def test_compiling_is_reported_with_its_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    said: list[str] = []
    network = Convolution()
    names = set(network.state_dict())
    compile_network(network, report=said.append)
    assert str(tmp_path) in said[0] and "TORCHINDUCTOR_CACHE_DIR" in said[0]
    image = torch.randn(1, 3, 4, 4, 4)
    network(image).sum().backward()
    assert [line.split(" compiled in ")[0] for line in said[1:]] == [
        "Convolution: forward pass",
        "Convolution: backward pass",
    ]
    assert set(network.state_dict()) == names
    compile_network(network, report=said.append)
    network(image).sum().backward()
    assert len(said) == 3
    assert any(tmp_path.iterdir())


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="no-such-compiler is not installed"):
        compile_network(Convolution())
