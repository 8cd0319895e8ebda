"""Random numbers that resume from a checkpoint."""

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from raum_lightning.errors import CheckpointError


class RandomState(pl.Callback):
    """Keeps the state of Python's, NumPy's and torch's global generators, so that dropout resumes where it was.

    The state is rank 0's, for all ranks: they are seeded alike and draw equally often. It is restored right
    before the first batch, after all that a starting run draws.
    """

    def __init__(self) -> None:
        self.loaded: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors, so that `torch.load(weights_only=True)` reads them."""
        name, key, *rest = np.random.get_state()  # noqa: NPY002 - the global generator is what libraries draw from
        return {
            "python": random.getstate(),
            "numpy": (name, np.asarray(key).tolist(), *rest),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the first batch."""
        self.loaded = state_dict

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the generators to what was loaded, once."""
        if not (loaded := self.loaded):
            return
        try:
            random.setstate(loaded["python"])
            np.random.set_state(loaded["numpy"])  # noqa: NPY002
            torch.set_rng_state(loaded["torch"])
            if loaded["cuda"] is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(loaded["cuda"])
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            reason = f"its state of the random numbers cannot be used: {str(error).partition(chr(10))[0]}"
            raise CheckpointError(f"{trainer.ckpt_path}: cannot be resumed from ({reason})") from error
        self.loaded = {}
