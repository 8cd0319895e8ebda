"""Scoring beside the network: the next case is segmented while the last is scored."""

import threading
from typing import Any

import pytest
import torch
from torch import nn

from raum_lightning import SegmentationModule
from raum_lightning.metrics import SegmentationMetrics
from raum_lightning.training.background import WAITING, Background

SECONDS = 60


def test_the_next_case_is_segmented_while_one_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    """The score of the first case waits for the second to be segmented: one after the other it would wait for ever."""
    seen, waited = threading.Semaphore(0), list[bool]()

    class Network(nn.Conv3d):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.release()
            return super().forward(image)

    scored = SegmentationMetrics.score

    def after_two(self: SegmentationMetrics, *masks: torch.Tensor, **options: Any) -> dict[str, float]:
        if not waited:
            waited.append(all(seen.acquire(timeout=SECONDS) for _ in range(2)))
        return scored(self, *masks, **options)

    monkeypatch.setattr(SegmentationMetrics, "score", after_two)
    module = SegmentationModule(Network(2, 4, 1), roi_size=(8, 8, 8), metrics=("dice", "lesion_dice"))
    for case in ("one", "two", "three"):
        image, label = torch.ones(1, 2, 8, 8, 8), torch.ones(1, 8, 8, 8, dtype=torch.uint8)
        batch = {"image": image, "label": label, "case": [case], "spacing": torch.ones(1, 3)}
        with torch.inference_mode():
            module.validation_step(batch, 0)
    module.scoring.finish()
    assert waited == [True]
    rows = module.val_metrics.per_case()
    assert [*rows] == ["one", "three", "two"] and rows["one"] == rows["two"] and "lesion_dice_wt" in rows["one"]


def test_jobs_run_in_order_and_few_of_them_wait() -> None:
    background, done, go = Background(), list[int](), threading.Event()

    def job(number: int) -> None:
        assert go.wait(SECONDS)
        done.append(number)

    for number in range(WAITING):
        background.run(lambda number=number: job(number))  # type: ignore[misc]
    assert done == []
    go.set()
    for number in range(WAITING, 6):
        background.run(lambda number=number: job(number))  # type: ignore[misc]
        assert len(done) >= number - WAITING
    background.finish()
    assert done == [0, 1, 2, 3, 4, 5]
    assert not any(thread.name.startswith("scores") for thread in threading.enumerate())


def test_what_a_job_raises_is_raised_and_leaves_nothing_behind() -> None:
    background = Background()

    def fail() -> None:
        raise ValueError("no such grid")

    background.run(fail)
    with pytest.raises(ValueError, match="no such grid"):
        background.finish()
    background.finish()
    assert not any(thread.name.startswith("scores") for thread in threading.enumerate())
