"""The sight of a run: on terminals of 80 and 140 columns nothing is overwritten or wrapped, in a log file no bar."""

import re
import sys
from pathlib import Path

import pytest

from raum_lightning.cli import main
from tests.helpers import DEBUG
from tests.helpers.terminal import run_in_terminal, screen

VALIDATED = (
    r"{step}/4 loss \d\.\d{{3}} WT \.\d{{3}} TC \.\d{{3}} ET \.\d{{3}} mean \.\d{{3}} best \.\d{{3}} [\d.]+/s 0:\d\d h"
)
SAID = (
    r"run      runs/debug/\w+",
    r"network  UNETR, 0\.47 M parameters, 32-true",
    r"cases    4 train, 1 val, 1 test, from cases",
    r"batch    2 patches a step \(2 per rank, 1 rank, 1 accumulated\)",
    r"lr       0\.0015, not scaled by the batch",
    r"lines    each validation: step, loss, Dice, best so far, patches/s, time left",
    VALIDATED.format(step=2),
    VALIDATED.format(step=4),
    r"time     0:\d\d:\d\d: steps \d+%, waiting for data \d+%, validation \d+%",
    r"best mean Dice on validation 0\.\d{3}:",
)
WORDS = [
    *("fit", "-c", DEBUG, "--data.root", "cases", "--trainer.precision", "32-true"),
    *("--trainer.logger.class_path", "raum_lightning.loggers.CSVLogger"),
]


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 140])
def test_a_terminal_shows_whole_lines(
    columns: int, brats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = run_in_terminal([sys.executable, "-m", "raum_lightning", *WORDS, "--run.id", f"wide{columns}"], columns)
    for pattern in SAID:
        assert [line for line in lines if re.fullmatch(pattern, line)], f"{pattern} in {lines}"
    (bar,) = [line for line in lines if line.startswith("Training")]
    assert re.fullmatch(r"Training +━+ 0:00:00 left step: 4/4 loss: \d\.\d{3} dice: 0\.\d{3}", bar)
    assert str(tmp_path / f"runs/debug/wide{columns}/checkpoints/best.ckpt") in "".join(lines)


@pytest.mark.slow
def test_a_log_file_has_the_same_lines_and_no_bar(
    brats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS, "--run.id", "log"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[-1] == str(tmp_path / "runs/debug/log/checkpoints/best.ckpt")
    for pattern in SAID:
        assert [line for line in lines if re.fullmatch(pattern, line)], f"{pattern} in {lines}"
    assert not [line for line in lines if "━" in line or "\x1b" in line or (len(line) > 80 and "/" not in line)]
    assert main([*WORDS, "--run.id", "log", "--ckpt_path", "auto"]) == 0
    done = "steps    all 4 were taken before: nothing is left to train\nrun "
    assert capfd.readouterr().out.startswith(done)
    epochs = [*WORDS, "--trainer.max_steps", "-1", "--trainer.max_epochs", "2", "--data.patches_per_epoch", "2"]
    for more in ([], ["--ckpt_path", "auto"]):
        assert main([*epochs, "--run.id", "epochs", *more]) == 0
    assert done.replace("4", "2") in capfd.readouterr().out


def test_the_emulated_terminal() -> None:
    assert screen("ab\r\ncd\rx\x1b[1Ay", 80) == ["ay", "xd"]
    assert screen("abcdef", 4) == ["abcd", "ef"]
    assert screen("abc\x1b[2K\r\x1b[31mz\x1b[0m", 80) == ["z"]
