"""Checkpoints are whole or absent, and never silently wrong."""

import multiprocessing
import os
import random
import re
import resource
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from raum_lightning.atomic import remove_partials
from raum_lightning.errors import CheckpointError, RunError
from raum_lightning.runs.checkpoints import newest_sound, verify
from raum_lightning.runs.folder import RunFolder
from raum_lightning.runs.resume_checks import check_agreement
from raum_lightning.training.checkpoint_io import VerifiedCheckpointIO
from tests.helpers.processes import exit_codes

SIZE = 300_000  # 1.2 MB


def content(step: int) -> dict[str, Any]:
    """A state in which step and weights belong together."""
    return {"global_step": step, "state_dict": {"weight": torch.full((SIZE,), float(step))}, "note": "text"}


def save(path: Path, step: int) -> Path:
    VerifiedCheckpointIO().save_checkpoint(content(step), path)
    return path


def checkpoints(run: Path) -> Path:
    return RunFolder(run).checkpoints


def load(path: Path) -> int:
    """The step in a checkpoint, whose weights must be of the same."""
    loaded = VerifiedCheckpointIO().load_checkpoint(path)
    assert (loaded["state_dict"]["weight"] == loaded["global_step"]).all()
    return int(loaded["global_step"])


def test_what_is_saved_is_loaded_by_us_and_by_torch(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints/last.ckpt", 3)
    assert load(path) == torch.load(path, weights_only=True)["global_step"] == 3
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_the_one_before_the_last_is_kept(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for step in (1, 2, 3):
        save(folder / "last.ckpt", step)
        save(folder / "best.ckpt", step)
    assert {path.name: load(path) for path in folder.iterdir()} == {
        "last.ckpt": 3,
        "previous.ckpt": 2,
        "best.ckpt": 3,
    }


@pytest.mark.slow
def test_any_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    VerifiedCheckpointIO().save_checkpoint({"step": 7, "weight": torch.arange(50.0)}, path)
    sound = path.read_bytes()
    noticed = 0
    for place in range(len(sound)):
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1 << place % 8]) + sound[place + 1 :])
        try:
            verify(path)
        except CheckpointError as error:
            assert str(path) in str(error)
            noticed += 1
        else:  # padding, a time or an attribute in the archive
            loaded = torch.load(path, weights_only=True)
            assert loaded["step"] == 7 and torch.equal(loaded["weight"], torch.arange(50.0))
    assert noticed > 500


@pytest.mark.parametrize("damage", ["short", "empty", "text"])
def test_a_damaged_file_is_named_and_the_one_before_it_used(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    previous, last = (
        save(checkpoints(tmp_path) / name, step) for step, name in ((1, "previous.ckpt"), (2, "last.ckpt"))
    )
    os.utime(previous, (1, 1))
    broken = {"short": last.read_bytes()[:-5000], "empty": b"", "text": b"not a checkpoint"}[damage]
    last.write_bytes(broken)
    assert newest_sound(RunFolder(tmp_path)) == previous
    assert re.search(r"last\.ckpt: is damaged.*; the one before it is used", caplog.text)
    with pytest.raises(CheckpointError, match=r"last\.ckpt: is damaged"):
        VerifiedCheckpointIO().load_checkpoint(last)


def test_the_latest_step_counts_and_not_the_clock(tmp_path: Path) -> None:
    late, early = (save(checkpoints(tmp_path) / name, step) for name, step in (("late.ckpt", 2), ("early.ckpt", 1)))
    os.utime(late, (1, 1))
    assert newest_sound(RunFolder(tmp_path)) == late
    again = save(checkpoints(tmp_path) / "again.ckpt", 2)
    assert early != newest_sound(RunFolder(tmp_path)) == again


def test_a_run_that_went_back_goes_on_from_where_it_went(tmp_path: Path) -> None:
    """To the first of 8 steps, and to the second: the last of before is `previous`."""
    best, previous, last = (
        save(checkpoints(tmp_path) / f"{name}.ckpt", step) for name, step in (("best", 8), ("previous", 8), ("last", 2))
    )
    for second, path in enumerate((best, previous, last), 1):
        os.utime(path, (second, second))
    assert newest_sound(RunFolder(tmp_path)) == last
    os.utime(best, (3, 3))  # saved just before, as where it was killed between the two
    assert newest_sound(RunFolder(tmp_path)) == best
    os.utime(best, (1, 1))
    last.write_bytes(b"")
    assert newest_sound(RunFolder(tmp_path)) == previous


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_again(tmp_path: Path) -> None:
    assert newest_sound(RunFolder(tmp_path)) is None
    checkpoints(tmp_path).mkdir()
    (checkpoints(tmp_path) / "last.ckpt").write_bytes(b"")
    (checkpoints(tmp_path) / ".host-1-last.ckpt").write_bytes(b"half written, and no checkpoint")
    with pytest.raises(CheckpointError, match="all checkpoints are damaged"):
        newest_sound(RunFolder(tmp_path))


PROCESSES = multiprocessing.get_context("fork")  # torch is imported already


def _save_without_room(path: Path, told: Any) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, resource.RLIM_INFINITY))
    try:
        save(path, 2)
    except CheckpointError as error:
        told.send(str(error))


def test_without_room_the_one_before_stays_and_the_reason_is_said(tmp_path: Path) -> None:
    path = save(tmp_path / "last.ckpt", 1)
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_save_without_room, args=(path, there))
    process.start()
    assert here.poll(60)
    assert here.recv() == (
        f"{path}: could not be written (File too large; folder {tmp_path}); the one before it is intact"
    )
    assert exit_codes(process) == [0]
    assert load(path) == 1 and list(tmp_path.iterdir()) == [path]


def _save_for_ever(folder: Path) -> None:
    for step in range(10**6):
        save(folder / "checkpoints/last.ckpt", step)


@pytest.mark.slow
def test_killed_at_any_moment_leaves_a_checkpoint(tmp_path: Path) -> None:
    draw = random.Random(0)
    newest = -1
    for _ in range(50):
        process = PROCESSES.Process(target=_save_for_ever, args=(tmp_path,))
        process.start()
        while newest < 0 and not (tmp_path / "checkpoints/last.ckpt").exists():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.03))
        process.kill()
        assert exit_codes(process) == [-signal.SIGKILL]
        found = newest_sound(RunFolder(tmp_path))
        assert found is not None
        newest = load(found)
    remove_partials(tmp_path / "checkpoints")
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} <= {"last.ckpt", "previous.ckpt"}


STEP_LR = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 2, "gamma": 0.5}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr": 0.2}, r"module\.lr was 0\.1 and is 0\.2\): .*--module\.init_from \S+last\.ckpt under another"),
        ({"weight_decay": 0.2}, r"module\.weight_decay was 0\.1 and is 0\.2"),
        ({"layer_decay": 0.9}, r"module\.layer_decay was 1\.0 and is 0\.9"),
        ({"lr_scheduler": None}, r"module\.lr_scheduler\.class_path was torch\S+StepLR and is None"),
        ({"lr_scheduler": STEP_LR | {"init_args": {"step_size": 3}}}, r"init_args\.step_size was 2 and is 3"),
        ({"optimizer": "torch.optim.SGD"}, r"module\.optimizer\.class_path was None and is torch\.optim\.SGD"),
        ({"freeze": []}, r"module\.freeze was \['vit'\] and is \[\]"),
        ({"ema": 0.9}, r"module\.ema was None and is 0\.9"),
        ({"loss": "torch.nn.CrossEntropyLoss"}, r"module\.loss\.class_path was None and is torch\S+CrossEntropyLoss"),
        ({"loss": {"class_path": "a.Loss", "init_args": {}}}, r"module\.loss\.class_path was None and is a\.Loss"),
        ({"warmup_steps": 7, "schedule": "polynomial"}, None),  # followed from there on
        ({"no_decay": True, "betas": [0.9, 0.95]}, None),  # which that run's configuration does not have
    ],
)
def test_a_run_that_continues_is_computed_as_it_was(tmp_path: Path, changes: dict[str, Any], said: str | None) -> None:
    module = {"lr": 0.1, "weight_decay": 0.1, "layer_decay": 1.0, "warmup_steps": 5, "schedule": "cosine"}
    module |= {"optimizer": None, "lr_scheduler": STEP_LR, "loss": None, "freeze": ["vit"], "ema": None}
    path = tmp_path / "last.ckpt"
    torch.save({"config": yaml.safe_dump({"module": module, "data": {}})}, path)
    now = {"module": module | changes, "data": {}}
    check_agreement(path, now, trains=False, continues=False)
    if said is None:
        check_agreement(path, now, trains=True, continues=True)
        return
    with pytest.raises(RunError, match=said):
        check_agreement(path, now, trains=True, continues=True)
