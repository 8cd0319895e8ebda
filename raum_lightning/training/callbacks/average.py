"""A running mean of the network's weights, which is validated, saved as the network and used to segment.

Lightning's `EMAWeightAveraging` (2.6) copies the whole module, warns of any with `configure_model` and of every verb
but `fit`, and saves the mean in place of the weights when training ends, from where no run resumes exactly.
"""

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from raum_lightning.errors import ConfigError

# key of a checkpoint: the weights that the next step changes; its `state_dict` holds their mean
CURRENT = "current_weights"
PREFIX = "network."


class AveragedWeights(pl.Callback):
    """Keeps the exponential moving average of the network's weights (EMA) and validates with it.

    After step n the average is d average + (1 - d) weights, d the smaller of `decay` and (1 + n) / (10 + n), so that
    the first weights are soon forgotten. When training ends the network holds the average.

    Args:
        decay: In (0, 1); .999 is a mean over about the last thousand steps.

    Raises:
        ConfigError: The decay is another number.
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ConfigError(f"module.ema={decay} is not in (0, 1): give a number such as 0.999, or leave it out")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.step = 0
        self.swapped = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the weights, or from what a checkpoint held, on their device."""
        self.step = trainer.global_step
        start = self.average or _weights(pl_module)
        self.average = {name: start[name].to(weight.device, copy=True) for name, weight in _weights(pl_module).items()}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update the average with the weights of a step."""
        if trainer.global_step == self.step:
            return  # gradients are accumulated
        self.step = trainer.global_step
        share = 1 - min(self.decay, (1 + self.step) / (10 + self.step))
        weights = _weights(pl_module)
        numbers = [name for name, weight in weights.items() if weight.is_floating_point()]
        torch._foreach_lerp_([self.average[name] for name in numbers], [weights[name] for name in numbers], share)
        for name in weights.keys() - set(numbers):
            self.average[name].copy_(weights[name])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average into the network."""
        if self.average and trainer.state.fn == TrainerFn.FITTING:
            self._swap(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights back, before checkpoints are written."""
        if self.swapped:
            self._swap(pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the network, for a program that uses it afterwards."""
        if self.average and not self.swapped:
            self._swap(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as the network's weights, and these beside it."""
        if not self.average:
            return
        here, kept = _weights(pl_module), self.average
        average, current = (here, kept) if self.swapped else (kept, here)
        checkpoint[CURRENT] = current
        checkpoint["state_dict"] |= {f"{PREFIX}{name}": weight for name, weight in average.items()}

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore both where a run is resumed; a checkpoint without an average starts it from its weights."""
        if trainer.state.fn != TrainerFn.FITTING or CURRENT not in checkpoint:
            return
        module: Any = pl_module
        state = checkpoint["state_dict"].items()
        self.average = {name.removeprefix(PREFIX): weight for name, weight in state if name.startswith(PREFIX)}
        module.network.load_state_dict(checkpoint[CURRENT])

    @torch.no_grad()
    def _swap(self, pl_module: pl.LightningModule) -> None:
        for name, weight in _weights(pl_module).items():
            held = weight.clone()
            weight.copy_(self.average[name])
            self.average[name].copy_(held)
        self.swapped = not self.swapped


def _weights(module: Any) -> dict[str, Tensor]:
    """Return the network's parameters and buffers, in its own memory."""
    weights: dict[str, Tensor] = module.network.state_dict()
    return weights
