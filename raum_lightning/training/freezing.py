"""Parts of a network that are not trained, for good or for the first steps."""

from collections.abc import Sequence

from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from raum_lightning.errors import ConfigError
from raum_lightning.training.option_checks import at_least


class Frozen:
    """Keeps the weights of parts of a network, and the running statistics of their norms, as they are.

    Frozen for good, they get no gradient and cost none. Where they thaw later they get one all the time, since ranks
    agree on what they exchange before the first step, and it is dropped until then.

    Args:
        network: The network.
        parts: Beginnings of names of its parameters, such as vit or vit.blocks.0.
        thaw_after: Steps after which they are trained; never where None.

    Raises:
        ConfigError: A part is not there, or nothing is left to train.
    """

    def __init__(self, network: nn.Module, parts: Sequence[str], thaw_after: int | None) -> None:
        self.network, self.thaw_after = network, thaw_after
        self.parts = tuple(f"{part}." for part in parts)
        names = [name for name, _ in network.named_parameters()]
        for part in self.parts:
            if not any(f"{name}.".startswith(part) for name in names):
                known = ", ".join(dict.fromkeys(name.partition(".")[0] for name in names))
                raise ConfigError(f"module.freeze names {part[:-1]}, which the network lacks: its parts are {known}")
        if thaw_after is not None:
            at_least(1, thaw_after=thaw_after)
            if not parts:
                raise ConfigError(f"module.thaw_after={thaw_after} has nothing to thaw: name parts as module.freeze")
        elif names and len(self.parameters) == len(names):
            raise ConfigError("module.freeze leaves nothing to train: name fewer parts, or give module.thaw_after")

    @property
    def parameters(self) -> list[nn.Parameter]:
        """Those that are frozen, in the network as it is now; sharding replaces them by others."""
        return [one for name, one in self.network.named_parameters() if f"{name}.".startswith(self.parts)]

    def begin(self) -> None:
        """Freeze, before ranks and optimiser look at the parameters."""
        if not self.parts:
            return
        count = sum(one.numel() for one in self.parameters) / 1e6
        until = "" if self.thaw_after is None else f" until step {self.thaw_after}"
        rank_zero_info(f"frozen{until}: {', '.join(part[:-1] for part in self.parts)}, {count:.2f} M parameters")
        for parameter in self.parameters:
            parameter.requires_grad_(self.thaw_after is not None)

    def check_length(self, total_steps: float) -> None:
        """Say where a run of so many steps ends before they thaw."""
        if self.thaw_after is not None and total_steps <= self.thaw_after:
            rank_zero_info(
                f"module.thaw_after={self.thaw_after} is not reached: the run has {total_steps:.0f} steps, and "
                f"{', '.join(part[:-1] for part in self.parts)} stays as it is"
            )

    def hold_statistics(self, step: int) -> None:
        """Before a step, let norms that keep running statistics normalise by these, and not change them, while frozen.

        Validation sets them back to training.
        """
        frozen = self.thaw_after is None or step < self.thaw_after
        for name, module in self.network.named_modules() if self.parts else ():
            if f"{name}.".startswith(self.parts) and getattr(module, "track_running_stats", False):
                module.train(not frozen)

    def hold(self, step: int) -> None:
        """Drop their gradients before a step in which they are still frozen."""
        if self.thaw_after is not None and step < self.thaw_after:
            for parameter in self.parameters:
                parameter.grad = None
