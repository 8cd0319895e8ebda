"""UNETRV2: UNETR with later improvements, each an argument whose default leaves UNETR unchanged.

With the defaults it is `unetr.UNETR`, with the same names of tensors. The sources of the items stand in `vit_v2`. With
`stem="conv"` and `skips="stem"`, for a patch size of 8:

    image --> stem, 1/1 --> projection --> level 0 --> head --> logits
                 |                            ^
              stem, 1/2 --> projection --> level 1 --> head --> logits at 1/2, with deep supervision
                 |                            ^
              stem, 1/4 --> projection --> level 2 --> head --> logits at 1/4
                 |                            ^
              stem, 1/8 --> tokens --> transformer
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raum_lightning.errors import ConfigError
from raum_lightning.models.decoder import Level, NormName, ResidualBlock, Skip, choose_norm
from raum_lightning.models.described import Described
from raum_lightning.models.unetr import check_arguments, check_checkpointing, count_levels, three_axes
from raum_lightning.models.vit import grid_of, run
from raum_lightning.models.vit_v2 import Stem, ViTV2

# PrimusV3 (nnU-Net, `documentation/primus.md`) starts at 1e-5, and its runs are a thousand times as long as a short one
# here, in which skips of that size would come to count only towards the end
PROJECTION_START = 1.0


class Projection(nn.Module):
    """From a resolution of the stem to its level of the decoder: a 1^3 convolution and a factor for each channel."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(in_channels, out_channels, 1)
        self.factor = nn.Parameter(torch.full((out_channels, 1, 1, 1), PROJECTION_START))

    def forward(self, x: Tensor) -> Tensor:
        """B C X Y Z to B D X Y Z."""
        return F.conv3d(x, *self.scaled())

    def scaled(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the convolution times the factor, which is less work than the map times it."""
        assert self.convolution.bias is not None
        return self.convolution.weight * self.factor.unsqueeze(1), self.convolution.bias * self.factor.flatten()


class UNETRV2(Described):
    """UNETR with a convolutional stem, rotary positions and other parts, each by a key: B C X Y Z to logits B K X Y Z.

    Args:
        in_channels: C, one for each modality.
        out_channels: K, one for each class or region.
        img_size: X, Y, Z in voxels, or one number for a cube; divisible by `patch_size`. With `position` rope the
            network takes images of any size that is divisible by `patch_size`, and this is only its usual window.
        patch_size: Edge of a token's patch in voxels; a power of two.
        embed_dim: Width of a token; divisible by `num_heads`.
        depth: Number of transformer blocks.
        num_heads: Heads of the attention.
        mlp: gelu, or swiglu with a gate.
        mlp_dim: Hidden width of each block's MLP; 4 x `embed_dim`, or two thirds of that for swiglu, where not given.
        out_indices: Blocks whose outputs the decoder takes, counted from 1: one for each factor of two in `patch_size`
            (over `stem_stride`), the last one being `depth`. With `skips` stem only the last one's is read.
        stem: What makes tokens: one linear map of each patch, or conv, residual blocks of strided convolutions.
        stem_size: Channels of the stem's first two resolutions; twice as many at each below.
        stem_stride: 1, or 2 for maps of at most half the resolution and an eighth of the operations: the first block of
            the stem halves the image, and the head, a transposed convolution, doubles the last map.
        skips: What the decoder's levels get beside the map from below: tokens, the outputs of blocks (and the image at
            full resolution); stem, a projection of each resolution of the stem; or the sum of both.
        position: learned, an embedding for each patch of `img_size`; rope, rotary along three axes; or both.
        layer_scale: Start of a learnt factor for what each block adds; none where not given.
        qk_norm: Whether queries and keys are normalised.
        drop_path: Probability in [0, 1) of skipping the last block for a case in training; rises from 0 at the
            first.
        deep_supervision: In training, return a tuple of logits at 1/1, 1/2 and 1/4 of the resolution.
        feature_size: Channels of the decoder at its highest resolution; each level below has twice as many.
        norm: Of decoder and stem: instance (without weights), instance_affine (with weights), batch, or group (8
            groups).
        qkv_bias: Whether queries, keys and values have a bias.
        dropout: Probability of dropping tokens, hidden units and attention weights in training.
        checkpointing: What is recomputed for the gradient instead of being kept: none, the decoder with its skips
            and the stem, or all, the transformer's blocks too. The gradient is the same.

    Raises:
        ConfigError: Sizes do not fit each other or the image, `skips` or `stem_stride` need what is not there, or
            `norm` is batch, whose running mean would see each batch twice, with `checkpointing`.
    """

    def __init__(
        self,
        *,
        in_channels: int = 3,
        out_channels: int = 4,
        img_size: Sequence[int] | int = (128, 128, 128),
        patch_size: int = 16,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp: Literal["gelu", "swiglu"] = "gelu",
        mlp_dim: int | None = None,
        out_indices: Sequence[int] = (3, 6, 9, 12),
        stem: Literal["linear", "conv"] = "linear",
        stem_size: int = 32,
        stem_stride: Literal[1, 2] = 1,
        skips: Literal["tokens", "stem", "both"] = "tokens",
        position: Literal["learned", "rope", "both"] = "learned",
        layer_scale: float | None = None,
        qk_norm: bool = False,
        drop_path: float = 0.0,
        deep_supervision: bool = False,
        feature_size: int = 16,
        norm: NormName = "instance",
        qkv_bias: bool = False,
        dropout: float = 0.0,
        checkpointing: Literal["none", "decoder", "all"] = "none",
    ) -> None:
        check_arguments(UNETRV2.__init__, locals())
        super().__init__()
        check_checkpointing(checkpointing, norm)
        if skips != "tokens" and stem == "linear":
            raise ConfigError(f"skips={skips!r} needs stem='conv'; stem='linear' has no feature maps")
        if layer_scale is not None and not 0 <= layer_scale < math.inf:
            raise ConfigError(f"layer_scale={layer_scale} must be a number of at least 0, or null")
        if stem_stride > 1 and skips != "stem":
            raise ConfigError(f"stem_stride={stem_stride} needs skips='stem'; others start at the image's resolution")
        levels = count_levels(patch_size, out_indices, stem_stride)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.img_size = three_axes(img_size)
        self.patch_size = patch_size
        self.norm = norm
        self.any_size = position == "rope"
        self.checkpoint_decoder = checkpointing != "none"
        make_norm = choose_norm(norm, feature_size)
        self.stem: Stem | None = None
        if stem == "conv":
            choose_norm(norm, stem_size, key="stem_size")
            self.stem = Stem(
                in_channels,
                stem_size,
                stride=stem_stride,
                halvings=levels,
                norm=make_norm,
                again=self.checkpoint_decoder,
            )
        self.vit = ViTV2(
            in_channels=self.stem.widths[-1] if self.stem else in_channels,
            img_size=self.img_size,
            patch_size=patch_size,
            stemmed=stem == "conv",
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp=mlp,
            mlp_dim=mlp_dim or (4 * embed_dim if mlp == "gelu" else 8 * embed_dim // 3),
            out_indices=out_indices,
            position=position,
            qkv_bias=qkv_bias,
            qk_norm=qk_norm,
            layer_scale=layer_scale,
            dropout=dropout,
            drop_path=drop_path,
            checkpoint_blocks=checkpointing == "all",
        )
        widths = [feature_size * 2**level for level in range(levels)] + [embed_dim]
        self.skips = nn.ModuleList()
        if skips != "stem":
            self.skips.append(ResidualBlock(in_channels, feature_size, norm=make_norm))
            for level in range(1, levels):
                self.skips.append(Skip(embed_dim, widths[level], ups=levels - level, norm=make_norm))
        self.projections = nn.ModuleList()
        if self.stem and skips != "tokens":
            self.projections.extend(Projection(self.stem.widths[i], widths[i]) for i in range(levels))
        self.levels = nn.ModuleList(Level(widths[i + 1], widths[i], norm=make_norm) for i in range(levels))
        head = nn.Conv3d if stem_stride == 1 else nn.ConvTranspose3d
        self.head = head(feature_size, out_channels, stem_stride, stem_stride)
        # of 1/2 and 1/4 of the image's resolution
        self.supervised = range(2 - stem_stride, min(4 - stem_stride, levels)) if deep_supervision else range(0)
        if deep_supervision and not self.supervised:
            raise ConfigError(
                f"deep_supervision needs a level at 1/2, and patch_size={patch_size} has none: leave it out"
            )
        self.deep_heads = nn.ModuleList(nn.Conv3d(widths[level], out_channels, 1) for level in self.supervised)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        """An image B C X Y Z to logits B K X Y Z; in training with deep supervision a tuple, at 1/1, 1/2 and 1/4."""
        self._check(image)
        count = len(self.levels)
        encoded = self.encode(image)
        sources, x, resolutions = encoded[:count], encoded[count], encoded[count + 1 :]
        maps = []
        for level in reversed(range(count)):
            x = run(self.levels[level], x, self._skip(level, sources, resolutions), again=self.checkpoint_decoder)
            maps.append(x)
        logits: Tensor = self.head(x)
        if not self.training or not self.deep_heads:
            return logits
        coarser = maps[::-1][self.supervised.start : self.supervised.stop]
        return logits, *(head(x) for head, x in zip(self.deep_heads, coarser, strict=True))

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return what the skips take, the image and maps of blocks; the deepest map; and the stem's maps, if any."""
        resolutions = self.stem(image) if self.stem else []
        return [image, *self.vit(resolutions[-1] if resolutions else image), *resolutions]

    def _skip(self, level: int, sources: Sequence[Tensor], resolutions: Sequence[Tensor]) -> Tensor:
        parts = []
        if self.skips:
            parts.append(run(self.skips[level], sources[level], again=self.checkpoint_decoder))
        if self.projections:
            parts.append(run(self.projections[level], resolutions[level], again=self.checkpoint_decoder))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]

    def _check(self, image: Tensor) -> None:
        fits = image.ndim == 5 and image.shape[1] == self.in_channels
        if not fits or (not self.any_size and image.shape[2:] != self.img_size):
            size = f"sizes divisible by {self.patch_size}" if self.any_size else f"img_size={self.img_size}"
            needed = f"in_channels={self.in_channels} and {size}"
            raise ConfigError(f"image of shape {tuple(image.shape)} does not fit {needed}: crop, pad or slide a window")
        grid_of(image.shape[2:], self.patch_size, key="the image's size")
