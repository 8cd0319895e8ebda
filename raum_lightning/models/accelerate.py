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
    pickles stay as they are. Parts that are sharded keep the class that they were sharded with. A subclass with a
    convolution or norm of a kind that this package has not, such as a dilated one, is left as it is as a whole.
    """
    slow_down(network)
    _swap(network, (_COMPILED if compiled else _EAGER).get(device, {}))


def slow_down(network: nn.Module) -> None:
    """Have the UNETRs in `network` computed by their own classes again."""
    _swap(network, _PLAIN)


def _swap(network: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> None:
    for whole in network.modules():
        if isinstance(whole, _NETWORKS) and all(map(_is_ours, whole.modules())):
            for part in whole.modules():
                part.__class__ = classes.get(type(part), type(part))


def _is_ours(part: nn.Module) -> bool:
    """Whether the kernels, which read the weights alone, compute what a part does."""
    if type(part) is nn.Conv3d and part.stride == (1, 1, 1):
        width = part.kernel_size[0]
        same = part.padding == (width // 2,) * 3 and part.kernel_size == (width,) * 3 and width % 2 == 1
        return same and part.padding_mode == "zeros" and part.dilation == (1, 1, 1) and part.groups == 1
    return not (type(part) is nn.InstanceNorm3d and part.track_running_stats)
