"""Checkpoint input and output for Lightning: atomic, and verified by a checksum when read."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from raum_lightning.atomic import atomic
from raum_lightning.errors import CheckpointError, OutputError
from raum_lightning.inference.exported import SAFETENSORS, count_members, read_card, read_safetensors
from raum_lightning.inference.folder import hash_files
from raum_lightning.inference.loading import PREFIX
from raum_lightning.runs.checkpoints import MODEL_CARD, verify
from raum_lightning.runs.folder import RunFolder

# key of what is no checkpoint but an export, which holds the network alone: a hash of the file
EXPORT = "export"


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
        """Return what was saved, or an export in the form of a checkpoint.

        Raises:
            CheckpointError: The file is not what was written.
            ExportError: The export is not what was written.
        """
        if Path(path).suffix == SAFETENSORS:
            return _read_export(Path(path))
        verify(Path(path))
        content: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only)
        return content


def _read_export(path: Path) -> dict[str, Any]:
    """Return a file of `raum export`, or of `raum ensemble`, whose networks read their weights themselves."""
    state = {}
    if not count_members(path):
        weights, _, _ = read_safetensors(path)
        state = {f"{PREFIX}{name}": weight for name, weight in weights.items()}
    card, _ = read_card(path)
    # without these keys Lightning shows it to no callback
    found: dict[str, Any] = {"pytorch-lightning_version": version("lightning"), "callbacks": {}}
    return found | {"state_dict": state, MODEL_CARD: card.to_plain(), EXPORT: hash_files([path])}
