"""Networks of this package as a device computes them fastest: the same weights, names and numbers, other kernels."""

from torch import nn

from raum_lightning.models import cpu, cuda, decoder, layout, low_maps, unetr, unetr_v2
from raum_lightning.models.decoder import ResidualBlock, Upsampling

_NETWORKS = (unetr.UNETR, unetr_v2.UNETRV2)
_EAGER = {"cpu": cpu.FAST, "cuda": cuda.FAST}
_COMPILED = {"cuda": layout.FAST}
_PLAIN = {fast: plain for classes in _EAGER.values() for plain, fast in classes.items()}
_PLAIN |= {low_maps.Conv3d: nn.Conv3d}


def accelerate(network: nn.Module, device: str, *, compiled: bool = False) -> None:
    """Have the UNETRs in `network` computed by the classes for a type of device, such as "cuda", in place.

    On a CPU the convolutions of any network become those of `low_maps`, whose gradient is right in bf16 too.

    A network that is to be compiled keeps its plain parts, of which the compiler makes better code; on a GPU the layout
    of its maps alone is changed. On other devices nothing is. Names of tensors, numbers up to rounding and copies stay
    as they are. Parts that are sharded keep the class that they were sharded with. A UNETR with a convolution, norm or
    decoder part of a kind that this package has not, such as a dilated convolution or one with spectral norm, is
    computed as any network.
    """
    slow_down(network)
    classes = (_COMPILED if compiled else _EAGER).get(device, {})
    for whole in network.modules():
        if isinstance(whole, _NETWORKS) and all(map(_is_ours, whole.modules())):
            _swap(whole, classes)
    if device == "cpu":
        _swap(network, {nn.Conv3d: low_maps.Conv3d})


def slow_down(network: nn.Module) -> None:
    """Have `network` computed by its own classes again."""
    _swap(network, _PLAIN)


def _swap(whole: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> None:
    for part in whole.modules():
        if type(part) in classes:  # a traced module bears no assignment
            part.__class__ = classes[type(part)]


def _is_ours(part: nn.Module) -> bool:
    """Whether the fast classes, which read the weights alone and hand several maps on, compute what a part does."""
    if isinstance(part, decoder.Level):
        return _are(part, decoder.Level) and _are(part.up, Upsampling) and _are(part.block, ResidualBlock)
    if isinstance(part, decoder.Skip):
        first, *others = part
        return _are(first, Upsampling) and all(_are(two, nn.Sequential, Upsampling, ResidualBlock) for two in others)
    if isinstance(part, ResidualBlock):
        first = next(part.shortcut.children(), nn.Identity())
        plain = _are(part.shortcut, nn.Identity) or (_are(part.shortcut, nn.Sequential) and _are(first, nn.Conv3d))
        return _are(part, ResidualBlock) and _are(part.conv1, nn.Conv3d) and _are(part.conv2, nn.Conv3d) and plain
    if type(part) is nn.Conv3d and part.stride == (1, 1, 1):
        width = part.kernel_size[0]
        same = part.padding == (width // 2,) * 3 and part.kernel_size == (width,) * 3 and width % 2 == 1
        return same and part.padding_mode == "zeros" and part.dilation == (1, 1, 1) and part.groups == 1
    return not (type(part) is nn.InstanceNorm3d and part.track_running_stats)


def _are(part: nn.Module, kind: type[nn.Module], *inner: type[nn.Module]) -> bool:
    """Whether a part is of exactly this class, and what it holds of exactly those, where they are given."""
    return _kind(part) is kind and (not inner or tuple(map(_kind, part.children())) == inner)


def _kind(part: nn.Module) -> type[nn.Module]:
    """Return the class of a part in the plain network; `fully_shard` makes one of its own of it."""
    kind = type(part)
    kind = kind.__bases__[-1] if kind.__name__.startswith("FSDP") else kind
    return _PLAIN.get(kind, kind)
