"""A training step as the device sees it: fused, clipped, and never waiting for the host."""

import csv
import traceback
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from raum_lightning import UNETR, SegmentationModule, losses
from raum_lightning.loggers import CSVLogger
from raum_lightning.training.callbacks.progress import ProgressBar

SIZES = {
    "img_size": 8,
    "patch_size": 4,
    "embed_dim": 8,
    "depth": 2,
    "num_heads": 2,
    "mlp_dim": 16,
    "out_indices": (1, 2),
}


class Waits(TorchDispatchMode):
    """Collects where a value is fetched from a tensor, which on an accelerator waits for all work before it."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            self.places.append("".join(traceback.format_stack(limit=12)))
        return function(*args, **(kwargs or {}))


def train(folder: Path, steps: int, module: SegmentationModule | None = None, **options: Any) -> SegmentationModule:
    torch.manual_seed(0)
    module = module or SegmentationModule(UNETR(**SIZES, feature_size=2), lr=1e-2, warmup_steps=1)
    labels = torch.randint(4, (2, 8, 8, 8), dtype=torch.uint8)
    batch = {"image": torch.randn(2, 3, 8, 8, 8), "label": labels, "case": ["one", "two"]}
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(
        default_root_dir=folder,
        enable_checkpointing=False,
        accelerator="cpu",
        max_steps=steps,
        limit_val_batches=0,
        gradient_clip_val=0.1,
        **quiet | options,
    )
    trainer.fit(module, DataLoader([batch] * steps, batch_size=None))
    return module


def test_the_pseudo_dice_that_is_logged_is_that_of_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = SegmentationModule(UNETR(**SIZES, feature_size=2), warmup_steps=1)
    # the step itself in place of its Dice
    monkeypatch.setattr("raum_lightning.module.pseudo_dice", lambda *_: torch.tensor(float(module.global_step)))
    train(tmp_path, 4, module, log_every_n_steps=2, logger=CSVLogger(tmp_path))
    with (tmp_path / "metrics.csv").open() as file:
        logged = [(row["step"], row["train/pseudo_dice"]) for row in csv.DictReader(file)]
    assert [(int(step), float(value)) for step, value in logged] == [(1, 1), (3, 3)]


@pytest.mark.slow
def test_steps_between_two_logs_wait_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_calls_between_looks", lambda device: 100)  # as on an accelerator
    logged = {"logger": CSVLogger(tmp_path), "enable_progress_bar": True, "callbacks": [ProgressBar()]}
    waits = {}
    for steps in (21, 29):
        with Waits() as waits[steps]:
            train(tmp_path, steps, log_every_n_steps=10, precision="bf16-mixed", **logged)
    assert len(waits[29].places) == len(waits[21].places) > 0, "\n---\n".join(waits[29].places)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_fused_optimiser_takes_the_plain_ones_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Any
) -> None:
    fused = train(tmp_path, 5, precision=precision)
    adamw = torch.optim.AdamW
    made = []

    def plain(*args: Any, fused: bool, **kwargs: Any) -> torch.optim.Optimizer:
        made.append(fused)
        return adamw(*args, **kwargs)

    monkeypatch.setattr(torch.optim, "AdamW", plain)
    unfused = train(tmp_path, 5, precision=precision)
    assert made == [True]
    torch.testing.assert_close(fused.state_dict(), unfused.state_dict(), rtol=1e-4, atol=1e-5)
