"""The optimiser and its learning rate: AdamW with warm-up unless others are given, and groups of parameters for both.

- No weight decay of norms, biases and positions: the convention since Devlin et al., "BERT" (arXiv:1810.04805).
- Learning rates that fall towards the input, layer by layer: Clark et al., "ELECTRA" (arXiv:2003.10555), for Vision
  Transformers Bao et al., "BEiT" (arXiv:2106.08254).
- Muon for matrices: Jordan et al. (https://kellerjordan.github.io/posts/muon); Liu et al., "Muon is Scalable for LLM
  Training" (arXiv:2502.16982), whose scale of the update lets it share AdamW's learning rate.
"""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from raum_lightning.errors import ConfigError
from raum_lightning.training.option_checks import at_least
from raum_lightning.training.schedule import ENDLESS, SCHEDULES

Made = TypeVar("Made")

_BLOCK = re.compile(r"(?:^|\.)vit\.blocks\.(\d+)\.")
# of this package's networks, and of MONAI's
_POSITIONS = ("pos_embed", "position_embeddings", "relative_position_bias_table")
_INPUT = re.compile(r"(?:^|\.)(vit|stem)\.(?!norm\.)")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How weights are changed; each value is the key of `SegmentationModule` of the same name.

    Raises:
        ConfigError: A value cannot be used; the message names its key.
    """

    optimizer: OptimizerCallable | None
    lr_scheduler: LRSchedulerCallable | None
    lr: float
    weight_decay: float
    betas: tuple[float, float]
    no_decay: bool
    layer_decay: float
    warmup_steps: int
    schedule: str

    def __post_init__(self) -> None:
        at_least(0, lr=self.lr, weight_decay=self.weight_decay, warmup_steps=self.warmup_steps)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"module.betas={list(self.betas)} must be two numbers in [0, 1)")
        if not 0 < self.layer_decay <= 1:
            raise ConfigError(f"module.layer_decay={self.layer_decay} is not in (0, 1]: 1 is the same rate everywhere")
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"module.schedule={self.schedule!r} is none of {', '.join(SCHEDULES)}")

    @property
    def warmup(self) -> int:
        """Steps of warm-up; a scheduler of the user's has its own."""
        return 0 if self.lr_scheduler else self.warmup_steps

    @property
    def unused(self) -> dict[str, tuple[str, ...]]:
        """Keys that have no effect, by the key of the user's class that has its own."""
        own = {"optimizer": ("lr", "weight_decay", "betas"), "lr_scheduler": ("warmup_steps", "schedule")}
        return {key: names for key, names in own.items() if getattr(self, key)}

    def build(
        self, module: nn.Module, total_steps: Callable[[], float], *, by_time: bool = False
    ) -> tuple[Optimizer, LRScheduler]:
        """Return the optimiser of the module's parameters and its scheduler, which is stepped after each step.

        `total_steps` is the run's length, and is not asked for before the first step. Where only time limits it
        (`by_time`), the warm-up takes at most a tenth.

        Raises:
            ConfigError: One of them refuses its arguments, or the scheduler needs a score or undoes `layer_decay`.
        """
        groups = parameter_groups(module, no_decay=self.no_decay, layer_decay=self.layer_decay)
        if self.optimizer:
            optimizer = _made("optimizer", self.optimizer, groups)
            if isinstance(optimizer, torch.optim.SparseAdam):
                raise ConfigError("module.optimizer=SparseAdam is for sparse gradients, which networks here have not")
        else:
            options: dict[str, Any] = {"lr": self.lr, "betas": self.betas, "weight_decay": self.weight_decay}
            optimizer = torch.optim.AdamW(groups, fused=True, **options)
        # a fused one could unscale gradients itself, for which Lightning refuses to clip them even where none is scaled
        if hasattr(optimizer, "_step_supports_amp_scaling"):
            optimizer._step_supports_amp_scaling = False
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)
        return optimizer, self._scheduler(optimizer, total_steps, by_time)

    def _scheduler(self, optimizer: Optimizer, total_steps: Callable[[], float], by_time: bool) -> LRScheduler:
        if self.lr_scheduler:
            before = [group["lr"] for group in optimizer.param_groups]
            scheduler = _made("lr_scheduler", self.lr_scheduler, optimizer)
            if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                raise ConfigError(
                    f"module.lr_scheduler={type(scheduler).__name__} needs a validation score; schedulers are stepped "
                    "after each optimiser step and are given none: give one that depends on the step alone"
                )
            # a scheduler need not be one of torch's, which note the rate that they start from
            after = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
            if len({round(new / old, 9) for new, old in zip(after, before, strict=True) if old}) > 1:
                raise ConfigError(
                    f"module.layer_decay={self.layer_decay} has no effect with {type(scheduler).__name__}, which sets "
                    "the rate of every group itself: leave layer_decay out, or take another scheduler"
                )
            return scheduler

        def factor(step: int) -> float:
            total = total_steps() if step else math.inf  # at step 0 nothing depends on the length
            warmup = min(self.warmup_steps, total / 10) if by_time else self.warmup_steps
            return SCHEDULES[self.schedule](step, warmup_steps=warmup, total_steps=total)

        return LambdaLR(optimizer, factor)

    def check_length(self, total_steps: float, scheduler: Any = None) -> None:
        """Check that the run's end is known, not before that of the warm-up, and not after that of a scheduler.

        Raises:
            ConfigError: It is not.
        """
        if self.lr_scheduler:
            last = getattr(scheduler, "total_steps", None)  # of OneCycleLR, which fails after it
            if isinstance(last, int) and last < total_steps:
                raise ConfigError(
                    f"module.lr_scheduler: {type(scheduler).__name__} ends after total_steps={last}, and the run has "
                    f"{total_steps:.0f} steps: give it as many"
                )
            if (half := getattr(scheduler, "T_max", math.inf)) < total_steps:  # of CosineAnnealingLR
                rank_zero_info(
                    f"module.lr_scheduler: {type(scheduler).__name__} falls for T_max={half} steps and rises again, "
                    f"and the run has {total_steps:.0f} steps"
                )
            return
        if total_steps == float("inf"):
            raise ConfigError(ENDLESS)
        if self.warmup_steps > total_steps:
            raise ConfigError(
                f"module.warmup_steps={self.warmup_steps} is longer than the run of {int(total_steps)} steps: "
                "lower it, or raise trainer.max_steps or max_epochs"
            )


def _made(key: str, make: Callable[[Any], Made], argument: Any) -> Made:
    """Return what the user's class makes of the groups or the optimiser; raise `ConfigError` where it refuses."""
    try:
        return make(argument)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"module.{key}: {str(error).partition(chr(10))[0]}") from error


def parameter_groups(module: nn.Module, *, no_decay: bool, layer_decay: float) -> list[dict[str, Any]]:
    """Return a group for each pair of weight decay and learning rate: one where neither differs.

    With `no_decay`, vectors, along whichever axis, and position embeddings have weight decay 0. With `layer_decay` d
    and L blocks, block i of `vit.blocks`, from 0, has `lr_scale` d^(L - i), what lies before it d^(L + 1), and the
    decoder 1.

    Raises:
        ConfigError: `layer_decay` is not 1 and there is no `vit.blocks`.
    """
    parameters = dict(module.named_parameters())
    depth = 1 + max((int(found[1]) for name in parameters if (found := _BLOCK.search(name))), default=-1)
    if layer_decay < 1 and not depth:
        raise ConfigError(f"module.layer_decay={layer_decay} is for networks with vit.blocks: leave it out")
    groups: dict[tuple[bool, float], list[Tensor]] = {}
    for name, parameter in parameters.items():
        vector = parameter.numel() == max(parameter.shape, default=1)
        plain = no_decay and (vector or name.endswith(_POSITIONS))
        groups.setdefault((plain, layer_decay ** _layers_behind(name, depth)), []).append(parameter)
    return [
        {"params": group} | ({"weight_decay": 0.0} if plain else {}) | ({"lr_scale": scale} if scale < 1 else {})
        for (plain, scale), group in groups.items()
    ]


def _layers_behind(name: str, depth: int) -> int:
    if found := _BLOCK.search(name):
        return depth - int(found[1])
    return depth + 1 if _INPUT.search(name) else 0


def follow_schedule(scheduler: Any) -> tuple[float, float] | None:
    """Set the learning rates to what the scheduler's factor says at its step; return the highest before and after.

    An optimiser that was saved by a run of another length still has the rate of that run's schedule. None where there
    is nothing to change, as when a run is resumed, or where the scheduler is no factor of the step.
    """
    if not isinstance(scheduler, LambdaLR):
        return None
    factors = [factor(scheduler.last_epoch) for factor in scheduler.lr_lambdas]
    rates = [base * factor for base, factor in zip(scheduler.base_lrs, factors, strict=True)]
    before = [group["lr"] for group in scheduler.optimizer.param_groups]
    if rates == before:
        return None
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = list(rates)
    return float(max(before)), float(max(rates))


class MuonAdamW(Optimizer):
    """Muon for matrices, the weights of linear layers, and AdamW for all else, at one learning rate.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate of both; Muon's update has the size of AdamW's (`match_rms_adamw`).
        weight_decay: Weight decay of both.
        momentum: Of Muon.
        betas: Of AdamW.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-4,
        weight_decay: float = 0.05,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        shared: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        super().__init__(params, shared)
        split = {matrices: self._part(matrices) for matrices in (True, False)}
        self._parts: list[Optimizer] = []
        if split[True]:
            muon = torch.optim.Muon(split[True], momentum=momentum, adjust_lr_fn="match_rms_adamw", **shared)
            self._parts.append(muon)
        if split[False]:
            self._parts.append(torch.optim.AdamW(split[False], betas=betas, **shared))
        self._share([group for part in self._parts for group in part.param_groups])

    def _part(self, matrices: bool) -> list[dict[str, Any]]:
        chosen = [[one for one in group["params"] if (one.ndim == 2) is matrices] for group in self.param_groups]
        return [group | {"params": some} for group, some in zip(self.param_groups, chosen, strict=True) if some]

    def _share(self, groups: list[dict[str, Any]]) -> None:
        """Let both work on these groups and on one state, so that schedulers and checkpoints see one optimiser."""
        self.param_groups = groups
        for part in self._parts:
            count = len(part.param_groups)
            part.param_groups, groups = groups[:count], groups[count:]
            part.state = self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, which replaces groups and state by others."""
        super().load_state_dict(state_dict)
        self._share(self.param_groups)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take one step of both; return what the closure returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self._parts:
            part.step()
        return loss
