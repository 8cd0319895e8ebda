"""What the callback says of runs whose loader and network sleep for known times."""

import time
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from raum_lightning.callbacks.throughput import Throughput
from raum_lightning.data.patches import PatchLoader, PatchSampler

BATCH = 2
STEPS = 24


class Sleeping:
    """Patches that take their time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return STEPS * BATCH

    def __getitem__(self, key: Any) -> dict[str, torch.Tensor]:
        time.sleep(self.seconds)
        return {"image": torch.ones(1)}


class Network(pl.LightningModule):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        time.sleep(self.seconds)
        return (batch["image"] * self.weight).mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        time.sleep(0.2)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(patch: float, step: float) -> tuple[Throughput, dict[str, float]]:
    callback = Throughput(steps=10)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, val_check_interval=6, num_sanity_val_steps=0, log_every_n_steps=4,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[callback],
    )  # fmt: skip
    loader: Any = PatchLoader(Sleeping(patch), PatchSampler(STEPS * BATCH), batch_size=BATCH)  # type: ignore[arg-type]
    trainer.fit(Network(step), loader, DataLoader([0.0]))  # type: ignore[arg-type]
    return callback, {name: float(value) for name, value in trainer.logged_metrics.items()}


def test_a_slow_loader_is_seen_and_told_once() -> None:
    with pytest.warns(UserWarning, match=r"waited for data during \d+% .* raise data\.num_workers \(now 0\)") as told:
        callback, logged = fit(patch=0.02, step=0.001)
    assert sum("waited for data" in str(warning.message) for warning in told) == 1
    assert logged["perf/data_wait"] > 0.7
    assert callback.history.maxlen == len(callback.history) == 10


def test_a_quick_loader_is_not(recwarn: pytest.WarningsRecorder) -> None:
    _, logged = fit(patch=0, step=0.04)
    assert logged["perf/data_wait"] < 0.2
    # 50 but for the overhead; with the 0.2 s of a validation in every six steps it would be at most 27
    assert 30 < logged["perf/patches_per_s"] <= 50
    assert not [warning for warning in recwarn if "waited for data" in str(warning.message)]
