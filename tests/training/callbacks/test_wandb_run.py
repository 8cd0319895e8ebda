"""What W&B is told of how a training has ended."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from raum_lightning.loggers import WandbLogger
from raum_lightning.training.callbacks.failures import FailedElsewhere
from raum_lightning.training.callbacks.preemption import Preempted
from raum_lightning.training.callbacks.wandb_run import WandbRun


class Stub(WandbLogger):
    """Keeps what would be an alert."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def alert_failure(self, error: BaseException) -> None:
        self.told.append(str(error))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (FailedElsewhere("the loss became NaN on another rank"), ["the loss became NaN on another rank"]),
        (ValueError("broken"), ["broken"]),
        (Preempted(0), []),
        (KeyboardInterrupt(), []),
    ],
)
def test_a_failure_on_any_rank_is_alerted_and_an_end_that_was_asked_for_is_not(
    error: BaseException, told: list[str]
) -> None:
    logger = Stub()
    state = SimpleNamespace(fn=TrainerFn.FITTING)
    trainer: Any = SimpleNamespace(loggers=[logger], is_global_zero=True, state=state)
    WandbRun(Path("none"), None).on_exception(trainer, None, error)
    assert logger.told == told
