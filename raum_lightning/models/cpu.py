"""The networks of this package as a CPU computes them fastest: the same weights, names and numbers, other kernels.

`accelerate.accelerate` gives the parts of a network the classes below, which differ from the plain ones in `forward`
alone. What the plain way costs stands at each; the measurements are in benchmarks/README.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raum_lightning.models import decoder, layout, unetr_v2, vit, vit_v2
from raum_lightning.models.low_maps import conv3d

# above, the N x N weights of a head take more memory than what they save in time
_MOST_TOKENS = 1024


class _ByProducts:
    """Attention by two products and a softmax in bf16, whose fused kernel takes more than twice as long."""

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, *, dropout_p: float) -> Tensor:
        """`scaled_dot_product_attention`; B h N d each."""
        if q.dtype != torch.bfloat16 or q.shape[2] > _MOST_TOKENS:
            return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p)
        return by_products(q, k, v, dropout_p=dropout_p)


class Attention(_ByProducts, vit.Attention):
    """`vit.Attention` by products where that is faster."""


class AttentionV2(_ByProducts, vit_v2.Attention):
    """`vit_v2.Attention` by products where that is faster."""


def by_products(q: Tensor, k: Tensor, v: Tensor, *, dropout_p: float) -> Tensor:
    """`scaled_dot_product_attention` written out; B h N d each."""
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
    return F.dropout(weights, dropout_p).to(v.dtype) @ v


@dataclass(frozen=True)
class Upsampled:
    """What a transposed convolution makes of a map `below`, B C X Y Z, with `weight`, C D 2 2 2: not yet computed.

    What follows is linear too, so that a convolution of the upsampled map is one transposed convolution of the map
    below: 8 products for a voxel and a pair of channels instead of 27, and no upsampled map.
    """

    below: Tensor
    weight: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """B D 2X 2Y 2Z."""
        return self.below.shape[0], self.weight.shape[1], *(2 * size for size in self.below.shape[2:])

    def compute(self) -> Tensor:
        """Return the upsampled map."""
        return F.conv_transpose3d(self.below, self.weight, stride=2)

    def convolve(self, kernel: Tensor, bias: Tensor | None) -> Tensor:
        """Return its convolution with E D K K K, K odd, that keeps the size: B E 2X 2Y 2Z."""
        width = kernel.shape[-1]
        # zeros around the map below are zeros around the upsampled one, which has no bias
        weight = F.conv3d(self.weight, kernel, padding=width - 1)
        return F.conv_transpose3d(self.below, weight, bias, stride=2, padding=width // 2)


Map = Tensor | Upsampled


def _computed(part: Map) -> Tensor:
    return part.compute() if isinstance(part, Upsampled) else part


class Upsampling(decoder.Upsampling):
    """`decoder.Upsampling`, put off where the 3^3 convolution to D channels that follows gains from it."""

    def forward(self, below: Map) -> Map:  # type: ignore[override]
        """B C X Y Z to B D 2X 2Y 2Z."""
        up = Upsampled(_computed(below), self.weight)
        return up if self._pays(math.prod(up.shape[2:])) else up.compute()

    def _pays(self, voxels: int) -> bool:
        c, d = self.in_channels, self.out_channels
        one_by_one, at_once = c * d + 27 * d * d, 8 * c * d  # products for a voxel
        kernels = 8 * c * 27 * d * d
        # with its gradient, a product among kernels takes up to eight times as long as one in a map
        return voxels * (one_by_one - at_once) > 8 * kernels


class Convolution(nn.Conv3d):
    """`nn.Conv3d` over one map or over several as if they were concatenated.

    The sum of the convolutions of each saves the concatenation, and in the gradient taking it apart.
    """

    def forward(self, *parts: Map) -> Tensor:
        """Maps B C X Y Z, whose C add up to the input's channels, to B D X Y Z in the same layout."""
        if self.stride != (1, 1, 1):
            return super().forward(*parts)  # type: ignore[arg-type]  # the stem's, always of one map
        kernels = torch.split(self.weight, [part.shape[1] for part in parts], dim=1)
        total = _convolve(parts[0], kernels[0], self.bias)
        for part, kernel in zip(parts[1:], kernels[1:], strict=True):
            total += _convolve(part, kernel)
        return total


def _convolve(part: Map, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a map B C X Y Z convolved with D C K K K, K odd: B D X Y Z of the same layout."""
    if isinstance(part, Upsampled):
        return part.convolve(kernel, bias)
    width = kernel.shape[-1]
    if width > 1 or not part.is_contiguous():
        return conv3d(part, kernel, bias, padding=width // 2)
    # the matrix product that it is
    matrix, voxels = kernel.flatten(1).expand(part.shape[0], -1, -1), part.flatten(2)
    y = torch.bmm(matrix, voxels) if bias is None else torch.baddbmm(bias[:, None], matrix, voxels)
    return y.view(part.shape[0], -1, *part.shape[2:])


class Projection(unetr_v2.Projection):
    """`unetr_v2.Projection` as the matrix product that it is."""

    def forward(self, x: Tensor) -> Tensor:
        """B C X Y Z to B D X Y Z."""
        return _convolve(x, *self.scaled())


class InstanceNorm(nn.InstanceNorm3d):
    """`nn.InstanceNorm3d` by the kernel that is fastest for the memory's layout."""

    def forward(self, x: Tensor) -> Tensor:
        """B C X Y Z to the same, each channel of each case with mean 0 and variance 1, then scaled and shifted."""
        if x.is_contiguous():
            y = F.layer_norm(x, x.shape[2:], eps=self.eps)
            return y if self.weight is None else y * _column(self.weight, y) + _column(self.bias, y)
        if not torch.is_grad_enabled():
            return F.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)
        # with channels last, the gradient of group_norm takes ten times as long as that of batch_norm
        # without a weight in float32, mean and variance would be kept in bf16
        ones = x.new_ones(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
        weight = ones if self.weight is None else self.weight
        cases = torch.split(x, 1) if len(x) > 1 else [x]
        normed = [F.batch_norm(case, None, None, weight, self.bias, training=True, eps=self.eps) for case in cases]
        return torch.cat(normed) if len(x) > 1 else normed[0]


def _column(numbers: Tensor, like: Tensor) -> Tensor:
    return numbers.to(like.dtype).view(-1, 1, 1, 1)


class ResidualBlock(decoder.ResidualBlock):
    """`decoder.ResidualBlock` over one map or over several as if they were concatenated, with sums in place."""

    def forward(self, *parts: Map) -> Tensor:
        """Maps B C X Y Z, whose C add up to the input's channels, to B D X Y Z."""
        y = self.act(self.norm1(self.conv1(*parts)))
        y = self.norm2(self.conv2(y))
        y += self._shortcut(*parts)
        out: Tensor = self.act(y)
        return out

    def _shortcut(self, *parts: Map) -> Tensor:
        if not isinstance(self.shortcut, nn.Sequential):
            return _computed(*parts)
        convolution, norm = self.shortcut
        out: Tensor = norm(convolution(*parts))
        return out


class Skip(decoder.Skip):
    """`decoder.Skip` whose upsamplings may be put off."""

    def forward(self, tokens: Tensor) -> Tensor:
        """B E X Y Z to B D, and each of X, Y and Z doubled `ups` times."""
        part: Map = tokens
        for step in self:
            part = step(part)
        return _computed(part)


class Level(decoder.Level):
    """`decoder.Level` without the concatenation where convolutions of the two maps can be added."""

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """B C X/2 Y/2 Z/2 from below and B D X Y Z from the skip to B D X Y Z."""
        up = self.up(below)
        # contiguous maps cost less to concatenate than their convolutions to add
        at_once = isinstance(up, Tensor) and up.is_contiguous()
        parts: Sequence[Map] = [torch.cat([up, skip], dim=1)] if at_once else [up, skip]
        out: Tensor = self.block(*parts)
        return out


FAST: dict[type[nn.Module], type[nn.Module]] = {
    **layout.FAST,
    vit.Attention: Attention,
    vit_v2.Attention: AttentionV2,
    unetr_v2.Projection: Projection,
    decoder.Upsampling: Upsampling,
    decoder.ResidualBlock: ResidualBlock,
    decoder.Skip: Skip,
    decoder.Level: Level,
    nn.Conv3d: Convolution,
    nn.InstanceNorm3d: InstanceNorm,
}
