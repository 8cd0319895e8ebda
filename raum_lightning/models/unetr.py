"""UNETR: a Vision Transformer as the encoder of a U-Net, for volumes.

Hatamizadeh et al., "UNETR: Transformers for 3D Medical Image Segmentation" (WACV 2022, arXiv:2103.10504). The official
code is MONAI's (https://github.com/Project-MONAI/MONAI, `monai/networks/nets/unetr.py`). Where paper and code disagree:

|                | paper                   | MONAI                            | here                           |
|----------------|-------------------------|----------------------------------|--------------------------------|
| skips from     | blocks 3, 6, 9, 12      | blocks 4, 7, 10, 12 (MONAI#4520) | `taps`, by default the paper's |
| decoder widths | 64, 128, 256, 512       | 16, 32, 64, 128                  | `feature_size` x 1, 2, 4, 8    |
| decoder block  | convolution, norm, ReLU | residual, LeakyReLU(0.01)        | MONAI's                        |
| decoder norm   | batch                   | instance                         | `norm`, by default MONAI's     |

With `taps=(4, 7, 10, 12)` and MONAI's weights (`raum_lightning.models.monai`) the logits are MONAI's. Unlike it, the
patch size is free: the decoder has one level per factor of two in it. For 16, with a level being an upsampling of
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

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from raum_lightning.errors import ConfigError
from raum_lightning.models.decoder import Convolution, Level, ResidualBlock, Skip, choose_norm
from raum_lightning.models.vit import ViT, run


class UNETR(nn.Module):
    """UNETR, a segmentation network for volumes of one size.

    `img_size` is X, Y, Z in voxels, or one number for a cube, and fixed, since the position embedding belongs to a
    grid: larger volumes go through a sliding window. `patch_size` is a power of two and `taps` names as many blocks
    as it has factors of two, counted from 1, the last one being `depth`. Level l of the decoder has
    `feature_size` x 2^l channels. `norm` is the decoder's: "instance" (without weights, as MONAI's), "batch" or
    "group" (8 groups). `dropout` acts on tokens and attention, in training only. `checkpointing` says what is computed
    again for the gradient instead of being kept: nothing, the decoder and its skips, or the transformer's blocks too;
    the gradient is the same. Raises `ValueError` for sizes that do not fit each other, for an image of another size,
    and for checkpointing with `norm` "batch", whose running mean would see each batch twice.
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
        taps: Sequence[int] = (3, 6, 9, 12),
        feature_size: int = 16,
        norm: Literal["instance", "batch", "group"] = "instance",
        qkv_bias: bool = False,
        dropout: float = 0.0,
        checkpointing: Literal["none", "decoder", "all"] = "none",
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.img_size = (img_size,) * 3 if isinstance(img_size, int) else tuple(img_size)
        if len(self.img_size) != 3:
            raise ConfigError(f"img_size={self.img_size} has {len(self.img_size)} numbers but a volume has 3 axes")
        if checkpointing != "none" and norm == "batch":
            raise ConfigError(
                f"checkpointing={checkpointing!r} does not go with norm='batch'; use 'instance' or 'group'"
            )
        self.norm = norm
        self.checkpointing = checkpointing
        levels = _levels(patch_size, taps)
        self.vit = ViT(
            in_channels=in_channels,
            img_size=self.img_size,
            patch_size=patch_size,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_dim=mlp_dim,
            taps=taps,
            qkv_bias=qkv_bias,
            dropout=dropout,
            keep=checkpointing != "all",
        )
        make_norm = choose_norm(norm, feature_size)
        widths = [feature_size * 2**level for level in range(levels)] + [embed_dim]
        self.skips = nn.ModuleList([ResidualBlock(in_channels, feature_size, norm=make_norm)])
        for level in range(1, levels):
            self.skips.append(Skip(embed_dim, widths[level], ups=levels - level, norm=make_norm))
        self.levels = nn.ModuleList(Level(widths[i + 1], widths[i], norm=make_norm) for i in range(levels))
        self.head = Convolution(feature_size, out_channels, 1, bias=True)

    def forward(self, image: Tensor) -> Tensor:
        """An image, B C X Y Z with C = `in_channels`, to logits, B D X Y Z with D = `out_channels`."""
        if image.shape[1:] != (self.in_channels, *self.img_size):
            needed = f"in_channels={self.in_channels} and img_size={self.img_size}"
            raise ConfigError(f"image of shape {tuple(image.shape)} does not fit {needed}: crop, pad or slide a window")
        if image.is_cpu and image.dtype == torch.float32 and torch.is_autocast_enabled("cpu"):
            image = image.to(torch.get_autocast_dtype("cpu"))  # once, instead of for each layer that sees it
        layout = self._layout(image)
        sources: list[Tensor] = [source.contiguous(memory_format=layout) for source in (image, *self.vit(image))]
        x = sources.pop()
        keep = self.checkpointing == "none"
        for level in reversed(range(len(self.levels))):
            skip = run(self.skips[level], sources[level], keep=keep)
            x = run(self.levels[level], x, skip, keep=keep)
        logits: Tensor = self.head(x).contiguous()
        return logits

    def _layout(self, image: Tensor) -> torch.memory_format:
        """How the decoder's maps lie in memory.

        In bf16 on a CPU, convolutions of few channels take down to a third of the time with channels last. In float32
        nothing is gained, the gradient of group norm loses more than that, and compiled code moves back and forth.
        """
        last = image.is_cpu and image.dtype == torch.bfloat16 and self.norm != "group"
        return torch.channels_last_3d if last and not torch.compiler.is_compiling() else torch.contiguous_format


def _levels(patch_size: int, taps: Sequence[int]) -> int:
    """How often the resolution doubles between tokens and voxels."""
    if patch_size < 2 or patch_size & (patch_size - 1):
        raise ConfigError(f"patch_size={patch_size} is not a power of two from 2 on; try 16")
    levels = patch_size.bit_length() - 1
    if len(taps) != levels:
        raise ConfigError(f"taps={tuple(taps)} names {len(taps)} blocks but patch_size={patch_size} needs {levels}")
    return levels
