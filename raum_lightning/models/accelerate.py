"""Networks of this package as a device computes them fastest: the same weights, names and numbers, other kernels."""

from torch import nn

from raum_lightning.models import cpu, cuda, unetr, unetr_v2

_NETWORKS = (unetr.UNETR, unetr_v2.UNETRV2)
_FAST = {"cpu": cpu.FAST, "cuda": cuda.FAST}
_PLAIN = {fast: plain for classes in _FAST.values() for plain, fast in classes.items()}


def accelerate(network: nn.Module, device: str, *, compiled: bool = False) -> None:
    """Have the UNETRs in `network` computed by the classes for a type of device, such as "cuda", in place.

    On a CPU a network that is to be compiled stays plain: the compiler makes better code of that. So do networks on
    other devices. Names of tensors, numbers up to rounding, copies and pickles stay as they are. Parts that are sharded
    keep the class that they were sharded with.
    """
    slow_down(network)
    if not (compiled and device == "cpu"):
        _swap(network, _FAST.get(device, {}))


def slow_down(network: nn.Module) -> None:
    """Have the UNETRs in `network` computed by their own classes again."""
    _swap(network, _PLAIN)


def _swap(network: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> None:
    for whole in network.modules():
        if isinstance(whole, _NETWORKS):
            for part in whole.modules():
                part.__class__ = classes.get(type(part), type(part))
