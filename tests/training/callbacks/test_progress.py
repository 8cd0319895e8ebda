"""What a run says of itself, on a terminal and in a log file."""

from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.callbacks import Timer

from raum_lightning.training.callbacks.progress import Clock, clock, validation_line


def test_a_validation_is_one_line_of_at_most_80_columns() -> None:
    values = {"train/loss": 0.52349, "val/loss": 0.6, "val/dice_wt": 0.9, "val/dice_tc": 0.8123, "val/dice_et": 0.7}
    values |= {"val/dice_mean": 0.8041, "val/precision_wt": 0.5, "perf/patches_per_s": 12.34}
    line = validation_line(values, 12000, 20000, best=0.8051, left=2 * 3600 + 61)
    said = "12000/20000 loss .523 WT .900 TC .812 ET .700 mean .804 best .805 12.3/s 2:01 h"
    assert line == said and len(line) <= 80


def test_long_runs_with_many_regions_keep_to_80_columns() -> None:
    values = {"train/loss": 0.5, "perf/patches_per_s": 12.34}
    values |= {f"val/dice_{part}": 0.5 for part in ("wt", "tc", "netc", "snfh", "et", "rc", "mean")}
    line = validation_line(values, 1_200_000, 2_000_000, best=0.8, left=100 * 3600)
    assert line == "1200000/2000000 loss .500 WT .500 TC .500 NETC .500 mean .500 best .800 100:00 h"
    assert len(line) <= 80


def test_what_is_not_known_is_left_out() -> None:
    assert validation_line({}, 4, 8) == "4/8"


def test_where_the_time_of_a_run_went(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    loader = SimpleNamespace(waited=3.0)
    trainer: Any = SimpleNamespace(global_step=10, max_steps=50, estimated_stepping_batches=50, train_dataloader=loader)
    measured = Clock()
    measured.start(trainer)
    assert measured.left(trainer) is None
    now, loader.waited, trainer.global_step = 160.0, 13.0, 20
    measured.pause()
    now = 200.0
    measured.resume()
    # 10 steps in 100 s, 30 to go
    assert measured.left(trainer) == 300
    assert measured.line(trainer) == "time     0:01:40: steps 50%, waiting for data 10%, validation 40%"


def test_no_time_is_left_in_the_validation_after_it() -> None:
    timer = Timer({"seconds": 60})
    timer.load_state_dict({"time_elapsed": {"train": 63}})
    assert Clock().left(SimpleNamespace(max_steps=-1, max_epochs=-1, callbacks=[timer], global_step=9)) == 0
    assert validation_line({}, 0, float("inf")) == "0"


def test_seconds_as_a_clock() -> None:
    assert [clock(seconds) for seconds in (0.4, 59.6, 3599, 360000)] == ["0:00:00", "0:01:00", "0:59:59", "100:00:00"]
