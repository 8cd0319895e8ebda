"""A network whose weights, gradients and optimiser state lie in shards on the devices (FSDP2)."""

import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, Strategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from raum_lightning.errors import ConfigError

CONTAINERS = (nn.ModuleList, nn.ModuleDict)


def check_strategy(strategy: Strategy, *, averaged: bool) -> None:
    """Raise `ConfigError` for a strategy that cannot train here; `averaged` says that `module.ema` is given."""
    if isinstance(strategy, FSDPStrategy):
        raise ConfigError(
            "trainer.strategy fsdp would wait for ever where ranks validate different numbers of windows; "
            "give lightning.pytorch.strategies.ModelParallelStrategy, which shards as well"
        )
    if averaged and isinstance(strategy, ModelParallelStrategy):
        raise ConfigError("module.ema cannot average weights that are sharded: leave it out, or use strategy ddp")


def shard(network: nn.Module, mesh: DeviceMesh) -> None:
    """Shard each block of the network's lists, and then the rest, in place; does nothing to what is sharded already.

    Args:
        network: Is called as a whole, and the blocks of its lists each as a whole.
        mesh: Replicas x shards of the weights: with 4 x 8, eight devices share one copy, and there are four copies.
    """
    lists = [part for part in network.modules() if isinstance(part, nn.ModuleList)]
    # those within others first
    blocks = [block for part in reversed(lists) for block in part if not isinstance(block, CONTAINERS)]
    for part in (*blocks, network):
        if not isinstance(part, FSDPModule):
            fully_shard(part, mesh=mesh)


def shard_of(weight: torch.Tensor) -> torch.Tensor:
    """Return what this rank holds of a weight."""
    return weight.to_local() if isinstance(weight, DTensor) else weight


def hold_whole(network: nn.Module, whole: bool) -> None:
    """Where the network is sharded, gather all its weights on every rank, or leave each rank its shard again.

    While they are whole no forward pass waits for another rank, and ranks may take different numbers of them.
    """
    with torch.inference_mode(False):  # what is gathered first in that mode could not be trained afterwards
        for part in network.modules():
            if isinstance(part, FSDPModule):
                # the backward pass begins where the network as a whole ends
                part.set_reshard_after_forward(not whole and part is not network, recurse=False)
                if whole:
                    part.unshard()
                else:
                    part.reshard()
