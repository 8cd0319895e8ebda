"""What the callback says of runs whose loader and network take known times, on a clock that nothing else moves."""

import time
import warnings
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from raum_lightning.data.patches import PatchLoader, PatchSampler
from raum_lightning.training.callbacks.throughput import Throughput

BATCH = 2
STEPS = 24


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


class Patches:
    raw = False

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock, self.seconds = clock, seconds

    def __len__(self) -> int:
        return STEPS * BATCH

    def __getitem__(self, key: Any) -> dict[str, torch.Tensor]:
        self.clock.now += self.seconds
        return {"image": torch.ones(1)}


class Network(pl.LightningModule):
    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, seconds
        self.weight = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        self.clock.now += self.seconds
        return (batch["image"] * self.weight).mean()

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.clock.now += 100

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(clock: Clock, *, patch: float, step: float) -> dict[str, float]:
    """Trains, validating every six steps; what was logged last."""
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=1, val_check_interval=6, num_sanity_val_steps=0, log_every_n_steps=4,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Throughput(steps=10)],
    )  # fmt: skip
    patches: Any = Patches(clock, patch)
    loader = PatchLoader(patches, PatchSampler(STEPS * BATCH), batch_size=BATCH)
    trainer.fit(Network(clock, step), loader, DataLoader([0.0]))
    return {name: float(value) for name, value in trainer.logged_metrics.items()}


def test_a_slow_loader_is_seen_and_told_once(clock: Clock) -> None:
    said = r"waited for data during 80% of the last 10 steps: raise data\.num_workers \(now 0\)"
    with pytest.warns(UserWarning, match=said) as told:
        logged = fit(clock, patch=2, step=1)
    assert sum("waited for data" in str(warning.message) for warning in told) == 1
    assert logged == pytest.approx({"perf/data_wait": 4 / 5, "perf/patches_per_s": 2 / 5})


def test_a_quick_loader_is_not(clock: Clock) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "training waited for data")
        logged = fit(clock, patch=0.1, step=1)
    assert logged == pytest.approx({"perf/data_wait": 0.2 / 1.2, "perf/patches_per_s": 2 / 1.2})
