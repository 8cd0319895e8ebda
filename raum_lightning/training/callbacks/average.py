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
# and the mean of those whose type is coarser than float32, to which `state_dict` rounds it
FINE = "average_weights"
PREFIX = "network."


class AveragedWeights(pl.Callback):
    """Keeps the exponential moving average of the network's weights (EMA) and validates with it.

    After step n the average is d average + (1 - d) weights, d the smaller of `decay` and (1 + n) / (10 + n), so that
    the first weights are soon forgotten. It is kept in float32 or finer: in bfloat16 most of its steps would be rounded
    away. When training ends the network holds the average, and another fit goes on from the weights.

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
        # the weights, while the network holds the average
        self.held: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights back where another fit left the average in the network."""
        self._restore(pl_module)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start from the weights, or from what a checkpoint held, on their device."""
        self.step = trainer.global_step
        weights = _weights(pl_module)
        start = self.average or weights
        self.average = {
            name: start[name].to(weight.device, _fine(weight.dtype), copy=True) for name, weight in weights.items()
        }

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
        averages = [self.average[name] for name in numbers]
        fine = [weights[name].to(average.dtype) for name, average in zip(numbers, averages, strict=True)]
        torch._foreach_lerp_(averages, fine, share)
        for name in weights.keys() - set(numbers):
            self.average[name].copy_(weights[name])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the average into the network."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._show(pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the weights back, before checkpoints are written."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._restore(pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the average in the network, for a program that uses it afterwards."""
        self._show(pl_module)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Save the average as the network's weights, and these beside it."""
        if not self.average:
            return
        weights = _weights(pl_module)
        checkpoint[CURRENT] = self.held or weights
        if not self.held:
            checkpoint["state_dict"] |= {
                f"{PREFIX}{name}": self.average[name].to(weight.dtype) for name, weight in weights.items()
            }
        if fine := {name: self.average[name] for name, one in weights.items() if _fine(one.dtype) != one.dtype}:
            checkpoint[FINE] = fine

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Restore both where a run is resumed; a checkpoint without an average starts it from its weights."""
        self.average, self.held = {}, {}  # those of another fit, whose weights have just been replaced
        if trainer.state.fn != TrainerFn.FITTING or CURRENT not in checkpoint:
            return
        module: Any = pl_module
        state = checkpoint["state_dict"].items()
        self.average = {name.removeprefix(PREFIX): weight for name, weight in state if name.startswith(PREFIX)}
        self.average |= checkpoint.get(FINE, {})
        module.network.load_state_dict(checkpoint[CURRENT])

    @torch.no_grad()
    def _show(self, pl_module: pl.LightningModule) -> None:
        """Put the average into the network, if there is one and it is not there yet."""
        if not self.average or self.held:
            return
        weights = _weights(pl_module)
        self.held = {name: weight.clone() for name, weight in weights.items()}
        for name, weight in weights.items():
            weight.copy_(self.average[name])

    @torch.no_grad()
    def _restore(self, pl_module: pl.LightningModule) -> None:
        """Put the weights back, if the network holds the average."""
        weights = _weights(pl_module)
        for name, held in self.held.items():
            weights[name].copy_(held)
        self.held = {}


def _weights(module: Any) -> dict[str, Tensor]:
    """Return the network's parameters and buffers, in its own memory."""
    weights: dict[str, Tensor] = module.network.state_dict()
    return weights


def _fine(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which the average of such weights is kept."""
    return torch.promote_types(dtype, torch.float32) if dtype.is_floating_point else dtype
