"""The encoder of UNETRV2: the Vision Transformer with later improvements, each independent of the others.

- Tokens from a small residual stem of strided convolutions: Xiao et al., "Early Convolutions Help Transformers See
  Better" (NeurIPS 2021, arXiv:2106.14881); for volumes PrimusV2 (nnU-Net, `documentation/primus.md`).
- Rotary positions along three axes: Su et al., "RoFormer" (arXiv:2104.09864); Heo et al., "Rotary Position Embedding
  for Vision Transformer" (ECCV 2024, arXiv:2403.13298), whose base for axes, 100, is used.
- SwiGLU: Shazeer, "GLU Variants Improve Transformer" (arXiv:2002.05202), with two thirds of the hidden width, so that
  it has as many weights.
- LayerScale: Touvron et al., "Going deeper with Image Transformers" (ICCV 2021, arXiv:2103.17239).
- Norm of queries and keys: Dehghani et al., "Scaling Vision Transformers to 22 Billion Parameters" (arXiv:2302.05442).
- DropPath: Huang et al., "Deep Networks with Stochastic Depth" (ECCV 2016, arXiv:1603.09382), rising with depth.

Without any of them it is `vit.ViT`, with the same names of tensors. Shapes as there.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from raum_lightning.errors import ConfigError
from raum_lightning.models import vit
from raum_lightning.models.decoder import Norm, ResidualBlock
from raum_lightning.models.vit import STD, check_out_indices, gelu_mlp, grid_of, init_linear, run, to_map

ROTARY_BASE = 100.0


class Stem(nn.Module):
    """Residual blocks that halve the resolution until a voxel is a patch.

    The first has `stride`, each of the `halvings` after it 2. It and the second have `channels`, and each after them
    twice as many.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int, halvings: int, norm: Norm, again: bool) -> None:
        super().__init__()
        self.again = again
        self.widths = [channels, *(channels * 2**step for step in range(halvings))]
        before = [in_channels, *self.widths[:-1]]
        self.stages = nn.ModuleList(
            ResidualBlock(c, d, norm=norm, stride=2 if stage else stride)
            for stage, (c, d) in enumerate(zip(before, self.widths, strict=True))
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """B C X Y Z to a map for each resolution, B D X/stride Y/stride Z/stride first and B D x y z last."""
        maps = [image]
        for stage in self.stages:
            maps.append(run(stage, maps[-1], again=self.again))
        return maps[1:]


def rotary(grid: Sequence[int], head_dim: int, *, like: Tensor) -> Tensor:
    """Return cosine and sine of the angles by which `rotate` turns the numbers of each patch's head: 2 N d as `like`.

    A third of the pairs of numbers belongs to each axis; pairs that are left over are not turned. The angle is the
    patch's place along the axis times a frequency that falls from 1 towards 1 / `ROTARY_BASE`.
    """
    pairs = head_dim // 6
    frequencies: Tensor = ROTARY_BASE ** (-torch.arange(pairs, device=like.device, dtype=like.dtype) / pairs)
    axes = (torch.arange(length, device=like.device, dtype=like.dtype) for length in grid)
    places = torch.meshgrid(*axes, indexing="ij")
    angles = torch.cat([place.reshape(-1, 1) * frequencies for place in places], dim=1)
    angles = F.pad(angles, (0, head_dim // 2 - 3 * pairs))
    both = torch.cat([angles, angles], dim=1)
    return torch.stack([both.cos(), both.sin()])


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Return B h N d with each number of the first half of d turned with its partner in the second half."""
    cos, sin = rotation.to(x.dtype).unbind()
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


class Attention(vit.Attention):
    """`vit.Attention` with a norm of queries and keys, and with rotary positions where they are given."""

    def __init__(self, *, embed_dim: int, num_heads: int, qkv_bias: bool, dropout: float, qk_norm: bool) -> None:
        super().__init__(embed_dim=embed_dim, num_heads=num_heads, qkv_bias=qkv_bias, dropout=dropout)
        self.q_norm: nn.Module = nn.LayerNorm(embed_dim // num_heads) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(embed_dim // num_heads) if qk_norm else nn.Identity()

    def forward(self, tokens: Tensor, rotation: Tensor | None = None) -> Tensor:
        """Tokens, B N E, and the 2 N d of `rotary`, to tokens, B N E."""
        q, k, v = rearrange(self.qkv(tokens), "b n (qkv h d) -> qkv b h n d", qkv=3, h=self.num_heads)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        heads = self.attend(q, k, v, dropout_p=self.dropout.p if self.training else 0.0)
        out: Tensor = self.dropout(self.proj(rearrange(heads, "b h n d -> b n (h d)")))
        return out


class SwiGLU(nn.Module):
    """An MLP whose hidden numbers are multiplied by a gate: out(silu(gate(x)) value(x))."""

    def __init__(self, embed_dim: int, hidden: int, *, dropout: float) -> None:
        super().__init__()
        self.gate_and_value = nn.Linear(embed_dim, 2 * hidden)
        self.out = nn.Linear(hidden, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens, B N E, to tokens, B N E."""
        gate, value = self.gate_and_value(tokens).chunk(2, dim=-1)
        out: Tensor = self.dropout(self.out(self.dropout(F.silu(gate) * value)))
        return out


class LayerScale(nn.Module):
    """A learnt factor for each of E numbers, `start` at first."""

    def __init__(self, embed_dim: int, start: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((embed_dim,), float(start)))

    def forward(self, tokens: Tensor) -> Tensor:
        """B N E to the same."""
        return tokens * self.factor


class DropPath(nn.Module):
    """In training, replaces all numbers of a case by 0 with a probability p, and divides the others by 1 - p."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, tokens: Tensor) -> Tensor:
        """B N E to the same."""
        if not self.training or self.probability == 0:
            return tokens
        kept = tokens.new_empty(len(tokens), *[1] * (tokens.ndim - 1)).bernoulli_(1 - self.probability)
        return tokens * (kept / (1 - self.probability))


class Block(nn.Module):
    """A pre-norm transformer block whose attention and MLP are scaled and dropped before they are added."""

    def __init__(
        self,
        *,
        attention: Attention,
        mlp: nn.Module,
        embed_dim: int,
        layer_scale: float | None,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attn = attention
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = mlp
        self.scale1: nn.Module = nn.Identity() if layer_scale is None else LayerScale(embed_dim, layer_scale)
        self.scale2: nn.Module = nn.Identity() if layer_scale is None else LayerScale(embed_dim, layer_scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, tokens: Tensor, rotation: Tensor | None = None) -> Tensor:
        """Tokens, B N E, and the 2 N d of `rotary`, to tokens, B N E."""
        tokens = tokens + self.drop_path(self.scale1(self.attn(self.norm1(tokens), rotation)))
        out: Tensor = tokens + self.drop_path(self.scale2(self.mlp(self.norm2(tokens))))
        return out


class ViTV2(nn.Module):
    """The encoder: an image, or the last map of a stem, as tokens through `depth` blocks.

    Args:
        in_channels: C of the image or of the stem's last map.
        img_size: X, Y, Z of the image in voxels.
        patch_size: Edge of a patch in voxels of the image.
        stemmed: Whether a stem has made each patch one voxel already.
        position: learned, one embedding for each patch of `img_size`; rope, rotary, for any number of patches; both.
        mlp: gelu or swiglu.
        mlp_dim: Hidden width of the MLP.
        layer_scale: Start of LayerScale's factors; none where not given.
        qk_norm: Whether queries and keys are normalised.
        drop_path: Probability of DropPath at the last block; it rises from 0 at the first.

    The others are those of `vit.ViT`.

    Raises:
        ConfigError: Sizes do not divide each other, or `out_indices` do not fit the depth.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        img_size: tuple[int, ...],
        patch_size: int,
        stemmed: bool,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp: Literal["gelu", "swiglu"],
        mlp_dim: int,
        out_indices: Sequence[int],
        position: Literal["learned", "rope", "both"],
        qkv_bias: bool,
        qk_norm: bool,
        layer_scale: float | None,
        dropout: float,
        drop_path: float,
        checkpoint_blocks: bool,
    ) -> None:
        super().__init__()
        self.checkpoint_blocks = checkpoint_blocks
        self.out_indices = check_out_indices(out_indices, depth)
        self.token_size = 1 if stemmed else patch_size
        self.patch_embed = nn.Linear(in_channels * self.token_size**3, embed_dim)
        patches = math.prod(grid_of(img_size, patch_size))
        self.pos_embed = None if position == "rope" else nn.Parameter(torch.empty(1, patches, embed_dim))
        self.head_dim = embed_dim // num_heads
        self.rotary = position != "learned"
        self.dropout = nn.Dropout(dropout)
        make_mlp = SwiGLU if mlp == "swiglu" else gelu_mlp
        self.blocks = nn.ModuleList(
            Block(
                attention=Attention(
                    embed_dim=embed_dim, num_heads=num_heads, qkv_bias=qkv_bias, dropout=dropout, qk_norm=qk_norm
                ),
                mlp=make_mlp(embed_dim, mlp_dim, dropout=dropout),
                embed_dim=embed_dim,
                layer_scale=layer_scale,
                drop_path=drop_path * (index / (depth - 1) if depth > 1 else 1),
            )
            for index in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)
        if self.rotary and (self.head_dim < 6 or self.head_dim % 2):
            raise ConfigError(
                f"position={position!r} turns pairs of numbers along three axes, but embed_dim={embed_dim} / "
                f"num_heads={num_heads} is {self.head_dim}; it must be even and at least 6"
            )
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=STD)
        self.blocks.apply(init_linear)

    def forward(self, image: Tensor) -> list[Tensor]:
        """B C X Y Z, of the image or of the stem's last map, to one map B E x y z for each of `out_indices`."""
        p = self.token_size
        grid = tuple(length // p for length in image.shape[2:])
        patches = rearrange(image, "b c (x i) (y j) (z k) -> b (x y z) (c i j k)", i=p, j=p, k=p)
        # blocks add to the tokens, which autocast must not leave in bf16
        tokens = self.patch_embed(patches).to(self.patch_embed.weight.dtype)
        tokens = self.dropout(tokens if self.pos_embed is None else tokens + self.pos_embed)
        positions = [rotary(grid, self.head_dim, like=tokens)] if self.rotary else []
        states = []
        for index, block in enumerate(self.blocks, start=1):
            tokens = run(block, tokens, *positions, again=self.checkpoint_blocks)
            if index in self.out_indices:
                states.append(tokens)
        states[-1] = self.norm(tokens)
        return [to_map(state, grid) for state in states]
