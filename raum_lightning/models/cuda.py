"""The networks of this package as a GPU computes them fastest: the same weights, names and numbers, other kernels.

As in `raum_lightning.models.cpu`, the classes differ from the plain ones in `forward` alone. What that is worth, on
which GPU, stands in benchmarks/README.md.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from raum_lightning.models import layout

_VOXELS = (2, 3, 4)  # the axes X, Y, Z of B C X Y Z


class InstanceNorm(nn.InstanceNorm3d):
    """`nn.InstanceNorm3d` by reductions in which all of the GPU takes part.

    torch has one block of threads for each channel of each case. Of 2 x 16 maps of 128^3 voxels that leaves three
    quarters of an H100 without work, and the norms take half of a UNETR's training step.
    """

    def forward(self, x: Tensor) -> Tensor:
        """B C X Y Z to the same, each channel of each case with mean 0 and variance 1, then scaled and shifted."""
        return normalise(x, self.weight, self.bias, self.eps)


def normalise(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """`F.instance_norm` of B C X Y Z with its own statistics; `weight` and `bias` are C numbers each, or not there."""
    return _normalise(x, weight, bias, eps)


class _Normalise(torch.autograd.Function):
    """(x - mean) / std * weight + bias, each pass over the voxels one operation, sums in float32 or better."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        variance, mean = _moments(x)
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, scale)
        factor = scale if weight is None else scale * _column(weight)
        offset = -mean * factor if bias is None else _column(bias) - mean * factor
        return _multiply_add(x, factor, offset)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, scale = ctx.saved_tensors
        (grad,) = grads
        voxels = x[0, 0].numel()
        total = grad.sum(_VOXELS, keepdim=True, dtype=mean.dtype)
        along = scale * ((grad * x).sum(_VOXELS, keepdim=True, dtype=mean.dtype) - mean * total)  # sum of grad * y
        factor = scale if weight is None else scale * _column(weight)
        # factor * (grad - its mean - y * the mean of grad * y), where y = (x - mean) * scale
        slope = -factor * scale * along / voxels
        d_x = _multiply_add(x, slope, -factor * total / voxels - slope * mean)
        d_x = torch.addcmul(d_x, grad, factor, out=d_x)
        if weight is None:
            return d_x, None, None, None
        return d_x, along.sum(0).flatten().to(weight.dtype), total.sum(0).flatten().to(weight.dtype), None


_normalise: Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor] = _Normalise.apply


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return variance and mean of each channel of each case, B C 1 1 1, in float32 or better."""
    if x.dtype not in (torch.float16, torch.bfloat16):
        return torch.var_mean(x, _VOXELS, correction=0, keepdim=True)
    # which would round both to the dtype of x; what the difference of squares loses is less than x itself lacks
    mean = x.mean(_VOXELS, keepdim=True, dtype=torch.float32)
    length = torch.linalg.vector_norm(x, dim=_VOXELS, keepdim=True, dtype=torch.float32)
    return (length.square() / x[0, 0].numel() - mean.square()).clamp_(min=0), mean


def _multiply_add(x: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    """Return x * factor + offset, computed in the dtype of factor and offset and rounded once to that of x."""
    return torch.addcmul(offset, x, factor, out=torch.empty_like(x))


def _column(numbers: Tensor) -> Tensor:
    return numbers.view(-1, 1, 1, 1)


FAST: dict[type[nn.Module], type[nn.Module]] = {**layout.FAST, nn.InstanceNorm3d: InstanceNorm}
