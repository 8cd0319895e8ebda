"""Networks of this package as a device computes them fastest: the same weights, names and numbers, other kernels."""

from torch import nn

from raum_lightning.models import cpu, cuda, layout, unetr, unetr_v2

_NETWORKS = (unetr.UNETR, unetr_v2.UNETRV2)
_EAGER = {"cpu": cpu.FAST, "cuda": cuda.FAST}
_COMPILED = {"cuda": layout.FAST}
_PLAIN = {fast: plain for classes in _EAGER.values() for plain, fast in classes.items()}


def accelerate(network: nn.Module, device: str, *, compiled: bool = False) -> None:
    """Have the UNETRs in `network` computed by the classes for a type of device, such as "cuda", in place.

    A network that is to be compiled keeps its plain parts, of which the compiler makes better code; on a GPU the layout
    of its maps alone is changed. On other devices nothing is. Names of tensors, numbers up to rounding, copies and
    pickles stay as they are. Parts that are sharded keep the class that they were sharded with.
    """
    slow_down(network)
    _swap(network, (_COMPILED if compiled else _EAGER).get(device, {}))


def slow_down(network: nn.Module) -> None:
    """Have the UNETRs in `network` computed by their own classes again."""
    _swap(network, _PLAIN)


def _swap(network: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> None:
    for whole in network.modules():
        if isinstance(whole, _NETWORKS):
            for part in whole.modules():
                part.__class__ = classes.get(type(part), type(part))
