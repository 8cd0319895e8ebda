"""Checkpoints that no crash, full disk or flipped bit turns into a wrong result.

A file is written under a temporary name, flushed to the disk and renamed: what bears its final name is whole.
`torch.save` writes a zip archive with a CRC-32 of every record, which torch does not look at when it loads; here each
is checked first.
"""

import os
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from raum_lightning.errors import CheckpointError

LAST = "last.ckpt"
# what LAST was before it was written anew
PREVIOUS = "previous.ckpt"


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Lightning's way to and from the disk, with files that are whole or absent and are checked before they are used.

    The file before a `last.ckpt` is kept as `previous.ckpt`.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Replaces `path` once its successor is safe; raises `CheckpointError` when there is no room for it."""
        target = Path(path)
        unfinished = target.with_name(f".{target.name}.tmp")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:
            unfinished.unlink(missing_ok=True)
            intact = f"; the one before it is intact: {target}" if target.exists() else ""
            raise CheckpointError(f"{target}: could not be written ({_reason(error)}){intact}") from error
        if target.name == LAST and target.exists():
            target.replace(target.with_name(PREVIOUS))
        unfinished.replace(target)
        _sync_folder(target.parent)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """What was saved; raises `CheckpointError` when the file is not what was written."""
        verify(Path(path))
        content: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only)
        return content


def verify(path: Path) -> None:
    """Reads the whole file; raises `CheckpointError` where a checksum does not fit or it is no checkpoint at all."""
    try:
        with zipfile.ZipFile(path) as archive:
            # torch writes no attributes; one with the bit of a folder would keep it from reading the record
            marked = (entry.filename for entry in archive.infolist() if entry.external_attr)
            record = archive.testzip() or next(marked, None)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except Exception as error:  # a flipped bit makes zipfile raise nearly anything
        raise CheckpointError(f"{path}: is damaged or no checkpoint ({_reason(error)})") from error
    if record:
        raise CheckpointError(f"{path}: is damaged ({record} is not as it was written)")
    structure(path)


def newest_sound(folder: Path) -> Path | None:
    """The checkpoint in `folder` of the latest step that is whole; None where there is none at all.

    Of one step, that written last. Damaged ones are named in a warning. Raises `CheckpointError` when all are damaged:
    to start anew over a run that has been trained is for the user to decide.
    """
    found = sorted(folder.glob("*.ckpt"), key=lambda path: (_step(path), path.stat().st_mtime), reverse=True)
    for path in found:
        try:
            verify(path)
        except CheckpointError as error:
            warnings.warn(f"{error}; the one before it is used", stacklevel=2)
        else:
            return path
    if found:
        raise CheckpointError(f"{folder}: all checkpoints are damaged; move them away to start anew")
    return None


def structure(path: Path) -> Any:
    """What a checkpoint holds, with tensors that have shapes but no values; raises `CheckpointError` as `verify`."""
    try:
        return torch.load(path, map_location="meta", mmap=True, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: is damaged or no checkpoint ({_reason(error)})") from error


def _step(path: Path) -> float:
    """Of training, when it was saved; infinite where that cannot be read, so that damage is noticed."""
    try:
        return float(structure(path).get("global_step", -1))
    except CheckpointError:
        return float("inf")


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__ or error
    return getattr(cause, "strerror", None) or str(cause).partition("\n")[0] or type(cause).__name__


def _sync_folder(folder: Path) -> None:
    """Makes a renaming last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
