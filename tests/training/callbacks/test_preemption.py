"""A signal in the midst of validation or prediction, and a second Ctrl-C; processes are in tests/distributed."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from raum_lightning.cli import main
from raum_lightning.module import SegmentationModule
from tests.helpers import DEBUG
from tests.helpers.cases import write_brats_cases

Step = Callable[[SegmentationModule, Any, int], Any]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with cases; signals are as before afterwards."""
    monkeypatch.chdir(tmp_path)
    write_brats_cases(tmp_path / "cases", 6)
    kept = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    yield tmp_path
    for signum, handler in kept.items():
        signal.signal(signum, handler)


def words(verb: str, *more: str) -> list[str]:
    common = ["-c", DEBUG, "--data.root", "cases", "--run.id", "one", "--trainer.logger", "false"]
    return [verb, *common, "--data.test_fraction", "0.3", "--trainer.max_steps", "4", *more]


def interrupted(monkeypatch: pytest.MonkeyPatch, name: str, *signals: signal.Signals, call: int = 1) -> list[int]:
    """Send signals within the `call`-th call of a step; the list that is returned grows with every call."""
    step: Step = getattr(SegmentationModule, name)
    calls: list[int] = []

    def wrapped(self: SegmentationModule, batch: Any, batch_idx: int) -> Any:
        calls.append(batch_idx)
        if len(calls) == call:
            for signum in signals:
                os.kill(os.getpid(), signum)
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SegmentationModule, name, wrapped)
    return calls


@pytest.mark.slow
def test_a_signal_while_fit_validates(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # two steps make an epoch, which is validated: the cases are finished, and the state saved is that after them
    with monkeypatch.context() as patch:
        validated = interrupted(patch, "validation_step", signal.SIGTERM)
        with pytest.raises(SystemExit) as left:
            main(words("fit"))
    assert left.value.code == 128 + signal.SIGTERM and validated
    last = here / "runs/debug/one/checkpoints/last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == 2
    assert main(words("fit", "--ckpt_path", "auto")) == 0
    assert torch.load(last, weights_only=True)["global_step"] == 4


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = interrupted(monkeypatch, "training_step", signal.SIGINT, signal.SIGINT)
    assert main(words("fit")) == 130
    said = capsys.readouterr().err
    assert "Ctrl-C: saving and stopping after this step or validation; press it again to stop at once" in said
    assert said.endswith("interrupted\n")
    assert len(taken) == 1 and not (here / "runs/debug/one/checkpoints/last.ckpt").exists()


@pytest.mark.slow
def test_predict_continues_with_what_is_left(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words("fit")) == 0
    folder = here / "runs/debug/one/predictions"
    with monkeypatch.context() as patch:
        interrupted(patch, "predict_step", signal.SIGTERM, call=2)
        with pytest.raises(SystemExit) as left:
            main(words("predict"))
    assert left.value.code == 128 + signal.SIGTERM
    (first,) = folder.glob("*.nii.gz")
    before = first.stat().st_mtime_ns
    capsys.readouterr()
    segmented = interrupted(monkeypatch, "predict_step")
    assert main(words("predict")) == 0
    assert "1 of 2 cases are segmented already" in capsys.readouterr().out
    assert len(segmented) == 1 and len(list(folder.glob("*.nii.gz"))) == 2
    assert first.stat().st_mtime_ns == before
