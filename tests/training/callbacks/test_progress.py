"""What a run says of itself, on a terminal and in a log file."""

from raum_lightning.training.callbacks.progress import validation_line


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
