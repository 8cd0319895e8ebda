"""UNETR: a Vision Transformer as the encoder of a U-Net, for volumes.

Hatamizadeh et al., "UNETR: Transformers for 3D Medical Image Segmentation" (WACV 2022, arXiv:2103.10504). The official
code is MONAI's (https://github.com/Project-MONAI/MONAI, `monai/networks/nets/unetr.py`). Where paper and code disagree:

|                | paper                   | MONAI                            | here                                  |
|----------------|-------------------------|----------------------------------|---------------------------------------|
| skips from     | blocks 3, 6, 9, 12      | blocks 4, 7, 10, 12 (MONAI#4520) | `out_indices`, by default the paper's |
| decoder widths | 64, 128, 256, 512       | 16, 32, 64, 128                  | `feature_size` x 1, 2, 4, 8           |
| decoder block  | convolution, norm, ReLU | residual, LeakyReLU(0.01)        | MONAI's                               |
| decoder norm   | batch                   | instance                         | `norm`, by default MONAI's            |

With `out_indices=(4, 7, 10, 12)` and MONAI's weights (`raum_lightning.models.monai`) the logits are MONAI's. Unlike it,
the patch size is free: the decoder has one level per factor of two in it. For 16, with a level being an upsampling of
what comes from below, a concatenation with the skip and a residual block:

    image --> block -----------------------> level 0 --> head --> logits
                                                ^
    z3 -----> up, up + block, up + block --> level 1
                                                ^
    z6 -----> up, up + block --------------> level 2
                                                ^
    z9 -----> up --------------------------> level 3
                                                ^
    z12 ----------------------------------------+
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor, nn

from raum_lightning.errors import ConfigError
from raum_lightning.models.decoder import Level, NormName, ResidualBlock, Skip, choose_norm
from raum_lightning.models.described import Described
from raum_lightning.models.vit import ViT, run

# of every size and count that a network is given
LARGEST = 2**16


class UNETR(Described):
    """UNETR, a segmentation network for volumes of one size: B C X Y Z to logits B K X Y Z.

    Larger volumes go through a sliding window, since the position embedding belongs to one grid of patches.

    Args:
        in_channels: C, one for each modality.
        out_channels: K, one for each class or region.
        img_size: X, Y, Z in voxels, or one number for a cube; divisible by `patch_size`.
        patch_size: Edge of a token's patch in voxels; a power of two.
        embed_dim: Width of a token; divisible by `num_heads`.
        depth: Number of transformer blocks.
        num_heads: Heads of the attention.
        mlp_dim: Hidden width of each block's MLP.
        out_indices: Blocks whose outputs the decoder takes, counted from 1: one for each factor of two in `patch_size`,
            the last one being `depth`.
        feature_size: Channels of the decoder at full resolution; each level below has twice as many.
        norm: The decoder's: instance (without weights, as MONAI's), instance_affine (with weights), batch, or group
            (8 groups).
        qkv_bias: Whether queries, keys and values have a bias.
        dropout: Probability of dropping tokens, hidden units and attention weights in training.
        checkpointing: What is recomputed for the gradient instead of being kept: none, the decoder and its skips,
            or all, the transformer's blocks too. The gradient is the same.
        taps: The former name of `out_indices`; will be removed.

    Raises:
        ConfigError: Sizes do not fit each other or the image, or `norm` is batch, whose running mean would see each
            batch twice, with `checkpointing`.
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
        mlp_dim: int = 3072,
        out_indices: Sequence[int] = (3, 6, 9, 12),
        feature_size: int = 16,
        norm: NormName = "instance",
        qkv_bias: bool = False,
        dropout: float = 0.0,
        checkpointing: Literal["none", "decoder", "all"] = "none",
        taps: Sequence[int] | None = None,
    ) -> None:
        check_arguments(UNETR.__init__, locals())
        super().__init__()
        if taps is not None:
            warnings.warn("taps of UNETR is now out_indices: rename the key", FutureWarning, stacklevel=2)
            out_indices = taps
        check_checkpointing(checkpointing, norm)
        levels = count_levels(patch_size, out_indices)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.img_size = three_axes(img_size)
        self.norm = norm
        self.checkpoint_decoder = checkpointing != "none"
        self.vit = ViT(
            in_channels=in_channels,
            img_size=self.img_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_dim=mlp_dim,
            out_indices=out_indices,
            qkv_bias=qkv_bias,
            dropout=dropout,
            checkpoint_blocks=checkpointing == "all",
        )
        make_norm = choose_norm(norm, feature_size)
        widths = [feature_size * 2**level for level in range(levels)] + [embed_dim]
        self.skips = nn.ModuleList([ResidualBlock(in_channels, feature_size, norm=make_norm)])
        for level in range(1, levels):
            self.skips.append(Skip(embed_dim, widths[level], ups=levels - level, norm=make_norm))
        self.levels = nn.ModuleList(Level(widths[i + 1], widths[i], norm=make_norm) for i in range(levels))
        self.head = nn.Conv3d(feature_size, out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        """An image, B C X Y Z with C = `in_channels`, to logits, B K X Y Z with K = `out_channels`."""
        if image.shape[1:] != (self.in_channels, *self.img_size):
            needed = f"in_channels={self.in_channels} and img_size={self.img_size}"
            raise ConfigError(f"image of shape {tuple(image.shape)} does not fit {needed}: crop, pad or slide a window")
        *sources, x = self.encode(image)
        for skip, level, source in zip(reversed(self.skips), reversed(self.levels), reversed(sources), strict=True):
            skipped = run(skip, source, again=self.checkpoint_decoder)
            x = run(level, x, skipped, again=self.checkpoint_decoder)
        logits: Tensor = self.head(x)
        return logits

    def encode(self, image: Tensor) -> list[Tensor]:
        """Return what the skips take, the image and maps of blocks, and last the map that the deepest level takes."""
        return [image, *self.vit(image)]


def three_axes(img_size: Sequence[int] | int) -> tuple[int, ...]:
    """Return X, Y, Z of a size that may be one number; raise `ConfigError` where there are not three."""
    size = (img_size,) * 3 if isinstance(img_size, int) else tuple(img_size)
    if len(size) != 3:
        raise ConfigError(f"img_size={size} has {len(size)} numbers but a volume has 3 axes")
    return size


def check_arguments(init: Callable[..., None], given: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for arguments of a network's `__init__` that its types or sense forbid.

    Sizes and counts are whole numbers from 1, words are those of their `Literal`, probabilities are below 1.
    """
    for key, kind in get_type_hints(init).items():
        value = given.get(key)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise ConfigError(f"{key}={value!r} is none of {', '.join(map(str, get_args(kind)))}")
        # int, int | None, Sequence[int] | int; not Sequence[int] alone, of blocks
        if value is not None and (kind is int or (int in get_args(kind) and get_origin(kind) is not Sequence)):
            sizes = value if isinstance(value, Sequence) else (value,)
            if not all(isinstance(size, Integral) and 1 <= int(size) <= LARGEST for size in sizes):
                raise ConfigError(f"{key}={value} must be a whole number from 1 to {LARGEST:,}")
        if key in ("dropout", "drop_path") and not 0 <= given[key] < 1:
            raise ConfigError(f"{key}={value} must be a probability in [0, 1)")


def count_levels(patch_size: int, out_indices: Sequence[int], stem_stride: int = 1) -> int:
    """Return how often the resolution doubles from tokens to the decoder's last map, of a voxel for each `stem_stride`.

    Raises `ConfigError` for what does not fit.
    """
    if patch_size < 2 * stem_stride or patch_size & (patch_size - 1):
        raise ConfigError(f"patch_size={patch_size} is not a power of two of at least {2 * stem_stride}; try 16")
    levels = (patch_size // stem_stride).bit_length() - 1
    if len(out_indices) != levels:
        named = f"out_indices={tuple(out_indices)} names {len(out_indices)} blocks"
        with_stride = f" with stem_stride={stem_stride}" if stem_stride > 1 else ""
        raise ConfigError(f"{named} but patch_size={patch_size}{with_stride} needs {levels}")
    return levels


def check_checkpointing(checkpointing: str, norm: str) -> None:
    """Raise `ConfigError` where a batch norm's running mean would see each batch twice."""
    if checkpointing != "none" and norm == "batch":
        raise ConfigError(
            f"checkpointing={checkpointing!r} cannot be combined with norm='batch'; use 'instance' or 'group'"
        )
