"""Checkpoints that no crash, full disk or flipped bit turns into a wrong result.

A file is written under a temporary name, flushed to the disk and renamed: what bears its final name is whole.
`torch.save` writes a zip archive with a CRC-32 of every record, which torch does not look at when it loads; here each
is checked first.
"""

import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from raum_lightning.atomic import atomic
from raum_lightning.errors import CheckpointError, OutputError
from raum_lightning.runs.folder import RunFolder


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Lightning's way to and from the disk, with files that are whole or absent and are checked before they are used.

    The file before a run's last checkpoint is kept as its previous one.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Replace `path` once its successor is safe; raise `CheckpointError` when there is no room for it."""
        target = Path(path)
        run = RunFolder(target.parent.parent)
        kept = run.previous if target == run.last else None
        try:
            # to an open file: of a path torch does not say why it could not be written
            with atomic(target, keep=kept) as partial, partial.open("wb") as file:
                torch.save(checkpoint, file)
        except OutputError as error:
            raise CheckpointError(str(error)) from error

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = lambda storage, location: storage,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Return what was saved; raise `CheckpointError` when the file is not what was written."""
        verify(Path(path))
        content: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only)
        return content


def verify(path: Path) -> None:
    """Read the whole file; raise `CheckpointError` where a checksum does not fit or it is no checkpoint at all."""
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


def newest_sound(run: RunFolder) -> Path | None:
    """Return the checkpoint of `run` of the latest step that is whole; None where there is none at all.

    Of one step, that written last. Damaged ones are named in a warning. Raises `CheckpointError` when all are damaged:
    to start again over a run that has been trained is for the user to decide.
    """
    found = sorted(run.saved, key=lambda path: (_step(path), path.stat().st_mtime), reverse=True)
    for path in found:
        try:
            verify(path)
        except CheckpointError as error:
            warnings.warn(f"{error}; the one before it is used", stacklevel=2)
        else:
            return path
    if found:
        raise CheckpointError(f"{run.checkpoints}: all checkpoints are damaged; move them away to start again")
    return None


def structure(path: Path) -> Any:
    """Return what a checkpoint holds, its tensors with shapes but no values; raise `CheckpointError` as `verify`."""
    try:
        return torch.load(path, map_location="meta", mmap=True, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: is damaged or no checkpoint ({_reason(error)})") from error


def _step(path: Path) -> float:
    """Return the step at which it was saved; infinite where that cannot be read, so that damage is noticed."""
    try:
        return float(structure(path).get("global_step", -1))
    except CheckpointError:
        return float("inf")


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error.__context__ or error
    return getattr(cause, "strerror", None) or str(cause).partition("\n")[0] or type(cause).__name__
