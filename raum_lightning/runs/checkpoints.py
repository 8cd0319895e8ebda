"""Reading checkpoints: whether a file is what was written, which of a run's is the newest, and what it holds.

`torch.save` writes a zip archive with a CRC-32 of every record, which torch does not look at when it loads; here each
is checked first.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from raum_lightning.errors import CheckpointError
from raum_lightning.runs.folder import RunFolder

# key of the description of the network, in checkpoints and in the metadata of exports; see `inference.card`
MODEL_CARD = "model_card"


def verify(path: Path) -> None:
    """Read the whole file; raise `CheckpointError` where a checksum does not fit or it is no checkpoint at all."""
    _verify_archive(path)
    structure(path)


def read(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds, its tensors mapped from the disk; raise `CheckpointError` as `verify` does."""
    _verify_archive(path)
    return _read(path, "cpu")


def structure(path: Path) -> dict[str, Any]:
    """Return what a checkpoint holds, its tensors with shapes but no values; raise `CheckpointError` as `verify`."""
    return _read(path, "meta")


def epochs_trained(content: Mapping[str, Any]) -> int:
    """Return how many epochs the run of a checkpoint had trained to their last batch; 0 where it does not say."""
    loop = ("loops", "fit_loop")
    # what is saved in the validation after the last batch is saved before Lightning counts the epoch
    over = _inside(content, *loop, "epoch_loop.batch_progress", "is_last_batch")
    done = _inside(content, *loop, "epoch_progress", "current", "started" if over else "processed")
    return done if isinstance(done, int) else 0


def seconds_trained(content: Mapping[str, Any]) -> float:
    """Return how long the run of a checkpoint had trained by Lightning's `Timer`: 0 where it had none."""
    passed = _inside(content, "callbacks", "Timer", "time_elapsed", "train")
    return passed if isinstance(passed, float) else 0.0


def _inside(content: Any, *keys: str) -> Any:
    """Return what lies below keys, None where it is not there."""
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def newest_sound(run: RunFolder) -> Path | None:
    """Return the checkpoint of `run` of the latest step that is whole; None where there is none at all.

    Of one step, that written last. A run that went back to an earlier checkpoint of its own has later steps of before:
    what is older than `last` counts only where that is damaged. Damaged ones are named on rank 0. Raises
    `CheckpointError` when all are damaged: to start again over a run that has been trained is for the user to decide.
    """
    from lightning.pytorch.utilities import rank_zero_info  # here, as who segments needs no Lightning

    written = {path: path.stat().st_mtime for path in run.saved}
    since = written.get(run.last, 0.0)
    found = sorted(written, key=lambda path: (written[path] >= since, _step(path), written[path]), reverse=True)
    for path in found:
        try:
            verify(path)
        except CheckpointError as error:
            rank_zero_info(f"{error}; the one before it is used")
        else:
            return path
    if found:
        raise CheckpointError(f"{run.checkpoints}: all checkpoints are damaged; move them away to start again")
    return None


def _verify_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            # torch writes neither attributes, of which the bit of a folder would keep it from reading the record, nor
            # compressed records, which a memory map would take for values
            marked = (entry.filename for entry in archive.infolist() if entry.external_attr or entry.compress_type)
            record = next(marked, None) or archive.testzip()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except Exception as error:  # a flipped bit makes zipfile raise nearly anything
        raise CheckpointError(f"{path}: is damaged or not a checkpoint ({_reason(error)})") from error
    if record:
        raise CheckpointError(f"{path}: is damaged ({record} is not as it was written)")


def _read(path: Path, device: str) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location=device, mmap=True, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: is damaged or not a checkpoint ({_reason(error)})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a checkpoint of `raum fit`")
    return content


def _step(path: Path) -> float:
    """Return the step at which it was saved; infinite where that cannot be read, so that damage is noticed."""
    try:
        return float(structure(path).get("global_step", -1))
    except CheckpointError:
        return float("inf")


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__ or error
    return getattr(cause, "strerror", None) or str(cause).partition("\n")[0] or type(cause).__name__
