"""Windows through a network, summed with Gaussian weights into logits: pure functions on tensors.

As in nnU-Net (Isensee et al., Nature Methods 2021) and in MONAI's `sliding_window_inference(mode="gaussian")`; given
the same windows, `blend` returns what MONAI returns.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Required, TypedDict, Unpack

import torch

from raum_lightning.errors import ConfigError
from raum_lightning.inference.windows import Triple, region_of

Network = Callable[[torch.Tensor], torch.Tensor]


class Blending(TypedDict, total=False):
    """The arguments of `blend` that say how windows are shown and where they are summed."""

    roi_size: Required[Triple]
    batch_size: int
    accumulate_on: torch.device | None


@lru_cache(maxsize=8)
def importance(x: int, y: int, z: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return the weights of a window's voxels x y z, in (0, 1]: a Gaussian of sigma length/8, never below 0.001.

    Computed in float32 whatever the dtype, with the sigma and the floor of MONAI's `compute_importance_map`.
    """
    weights = torch.ones((), device=device)
    for length in (x, y, z):
        offset = torch.arange(length, device=device) - (length - 1) / 2
        weights = weights[..., None] * torch.exp(offset**2 / (-2 * (length / 8) ** 2))
    return weights.clamp(min=1e-3).to(dtype)


def blend(
    volume: torch.Tensor, network: Network, starts: Sequence[Triple], **blending: Unpack[Blending]
) -> torch.Tensor:
    """Return the network's windows of one volume C X Y Z averaged with Gaussian weights: logits K X Y Z.

    Voxels that no window visits are background as in `background_logits_`; the rest is as for `slabs`.
    """
    logits: torch.Tensor | None = None
    for first, slab in slabs(volume, network, starts, **blending):
        if logits is None:
            logits = zeros((len(slab), *volume.shape[1:]), slab.dtype, slab.device)
            background_logits_(logits, logits.new_ones((), dtype=torch.bool))
        logits[:, first : first + slab.shape[1]] = slab
    assert logits is not None, "no windows"
    return logits


def slabs(
    volume: torch.Tensor,
    network: Network,
    starts: Sequence[Triple],
    *,
    roi_size: Triple,
    batch_size: int = 1,
    accumulate_on: torch.device | None = None,
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the blended logits K x Y Z in slabs along X, each with its first X, as soon as its last window is seen.

    Only what later windows touch is held. The sums are float32 (float64 for a float64 volume) and lie on
    `accumulate_on`, by default the volume's device. `starts` rise along X. What lies before the first window and behind
    the last is not yielded.
    """
    device = accumulate_on or volume.device
    dtype = torch.promote_types(volume.dtype, torch.float32)
    sums: torch.Tensor | None = None
    base = until = starts[0][0]
    for first in range(0, len(starts), batch_size):
        batch = starts[first : first + batch_size]
        with torch.no_grad():
            outputs = network(torch.stack([_widened(volume[:, *region_of(start, roi_size)]) for start in batch]))
        if not isinstance(outputs, torch.Tensor):
            raise ConfigError(
                f"the network returns a {type(outputs).__name__} and not one tensor of logits: with deep supervision "
                "call its eval() first"
            )
        if sums is None:
            sums = zeros((outputs.shape[1] + 1, 0, *volume.shape[2:]), dtype, device)
        begin, end = batch[0][0], batch[-1][0] + roi_size[0]
        assert base <= begin, "windows that do not rise along X"
        if begin > base and sums.shape[1]:
            yield base, _means(sums[:, : min(begin, until) - base])
        sums, base, until = _moved(sums, begin - base, end - begin), begin, end
        weights = importance(*roi_size, sums.device, dtype)
        for (x, y, z), output in zip(batch, outputs.to(sums.device, dtype), strict=True):
            region = region_of((x - base, y, z), roi_size)
            sums[:-1, *region].addcmul_(output, weights)
            sums[-1, *region].add_(weights)
    assert sums is not None, "no windows"
    yield base, _means(sums[:, : until - base])


def _moved(sums: torch.Tensor, gone: int, length: int) -> torch.Tensor:
    """Return the sums without the first `gone` rows along X and with 0 behind, `length` rows or more."""
    kept = max(0, sums.shape[1] - gone)
    if length > sums.shape[1]:
        longer = zeros((len(sums), length, *sums.shape[2:]), sums.dtype, sums.device)
        longer[:, :kept] = sums[:, gone:]
        return longer
    for first in range(0, kept if gone else 0, max(gone, 1)):  # in place, in parts that do not overlap
        last = min(first + gone, kept)
        sums[:, first:last] = sums[:, first + gone : last + gone]
    sums[:, kept:] = 0
    return sums


def _means(sums: torch.Tensor) -> torch.Tensor:
    """Turn sums over windows, the last channel of which are the weights, into logits, in place."""
    logits, total = sums[:-1], sums[-1]
    return background_logits_(logits.div_(total), total == 0)


def background_logits_(logits: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """Make K X Y Z certain background, in place, where X Y Z is true: -20 in channel 0 and -40 in the others.

    That holds in both modes: softmax leaves 2e-9 for each class but background, sigmoid gives no region more than
    3e-9.
    """
    logits[0].masked_fill_(where, -20)
    logits[1:].masked_fill_(where, -40)
    return logits


def seen(logits: torch.Tensor) -> torch.Tensor:
    """Return where a window has visited logits B K X Y Z of `sliding_window`: booleans B X Y Z."""
    untouched = background_logits_(torch.ones_like(logits[0, :, 0, 0, 0]), torch.tensor(True, device=logits.device))
    return (logits != untouched.view(1, -1, 1, 1, 1)).any(dim=1)


def _widened(window: torch.Tensor) -> torch.Tensor:
    """Return a window in the network's precision: float16 is how a volume is stored."""
    return window.float() if window.dtype == torch.float16 else window


def zeros(size: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return zeros on `device`, or on the CPU where the device is short of memory."""
    try:
        return torch.zeros(size, dtype=dtype, device=device)
    except torch.OutOfMemoryError:
        warnings.warn(f"{device} is short of memory: windows are summed on the CPU", RuntimeWarning, stacklevel=2)
        return torch.zeros(size, dtype=dtype)
