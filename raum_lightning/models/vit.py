"""The Vision Transformer of UNETR: patches of a volume in, feature maps of chosen blocks out.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021, arXiv:2010.11929), as UNETR uses it: pre-norm blocks,
no [CLS] token, a learnable 1-D position embedding. The official implementation of UNETR is MONAI's
(https://github.com/Project-MONAI/MONAI, `monai/networks/nets/vit.py`). What differs here, and why:

- The patch embedding is one matrix product on rearranged patches instead of a strided convolution: the same numbers,
  in less time.
- Attention goes through `scaled_dot_product_attention`, with dropout in training only. In bf16 on a CPU, whose fused
  kernel takes more than twice as long, it is two products and a softmax.
- Every parameter takes part in the output, so that DistributedDataParallel works as it is. MONAI 1.6 carries a
  LayerNorm for cross-attention in each block that nothing reads.
- Linear layers inside the blocks start from a normal distribution truncated at two units, standard deviation 0.02, with
  zero biases, as in Google's and timm's ViT. MONAI does so for the position embedding only and leaves the blocks
  to PyTorch's default. The patch embedding keeps that default in both: its fan-in of thousands asks for less.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from raum_lightning.errors import ConfigError

STD = 0.02


def _nearest_multiple(value: int, divisor: int) -> int:
    return max(1, round(value / divisor)) * divisor


def _grid(img_size: tuple[int, ...], patch_size: int) -> tuple[int, ...]:
    """Patches along each axis."""
    if any(size % patch_size for size in img_size):
        multiple = tuple(_nearest_multiple(size, patch_size) for size in img_size)
        raise ConfigError(f"img_size={img_size} is not divisible by patch_size={patch_size}; try {multiple}")
    return tuple(size // patch_size for size in img_size)


def run(module: nn.Module, *inputs: Tensor, keep: bool) -> Tensor:
    """The module's output; where not to `keep` what lies between, it is computed again for the gradient."""
    again = not keep and torch.is_grad_enabled()
    out: Tensor = checkpoint(module, *inputs, use_reentrant=False) if again else module(*inputs)
    return out


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, *, embed_dim: int, num_heads: int, qkv_bias: bool, dropout: float) -> None:
        super().__init__()
        if embed_dim % num_heads:
            multiple = _nearest_multiple(embed_dim, num_heads)
            raise ConfigError(f"embed_dim={embed_dim} is not divisible by num_heads={num_heads}; try {multiple}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=qkv_bias)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens, B N E, to tokens, B N E."""
        q, k, v = rearrange(self.qkv(tokens), "b n (qkv h d) -> qkv b h n d", qkv=3, h=self.num_heads)
        dropout = self.dropout.p if self.training else 0.0
        attend = _attend if q.is_cpu and q.dtype == torch.bfloat16 else F.scaled_dot_product_attention
        heads = attend(q, k, v, dropout_p=dropout)
        out: Tensor = self.dropout(self.proj(rearrange(heads, "b h n d -> b n (h d)")))
        return out


class Block(nn.Module):
    """A pre-norm transformer block: attention, then a GELU MLP, each added to its input."""

    def __init__(self, *, embed_dim: int, num_heads: int, mlp_dim: int, qkv_bias: bool, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attn = Attention(embed_dim=embed_dim, num_heads=num_heads, qkv_bias=qkv_bias, dropout=dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = nn.Sequential(
            nn.Linear(embed_dim, mlp_dim),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_dim, embed_dim),
            nn.Dropout(dropout),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens, B N E, to tokens, B N E."""
        tokens = tokens + self.attn(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class ViT(nn.Module):
    """The encoder: patches of an image as tokens, through `depth` blocks.

    `taps` names the blocks whose outputs are returned, counted from 1 and ending with `depth`. `keep` False has each
    block computed again for the gradient. Raises `ValueError` for sizes that do not divide and for taps that do not fit
    the depth.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        img_size: tuple[int, ...],
        patch_size: int,
        embed_dim: int,
        depth: int,
        num_heads: int,
        mlp_dim: int,
        taps: Sequence[int],
        qkv_bias: bool,
        dropout: float,
        keep: bool,
    ) -> None:
        super().__init__()
        self.keep = keep
        self.taps = tuple(taps)
        if list(taps) != sorted(set(taps)) or taps[0] < 1 or taps[-1] != depth:
            raise ConfigError(f"taps={self.taps} must rise, from 1 or more, to depth={depth}")
        self.patch_size = patch_size
        self.grid = _grid(img_size, patch_size)
        self.patch_embed = nn.Linear(in_channels * patch_size**3, embed_dim)
        self.pos_embed = nn.Parameter(torch.empty(1, math.prod(self.grid), embed_dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(embed_dim=embed_dim, num_heads=num_heads, mlp_dim=mlp_dim, qkv_bias=qkv_bias, dropout=dropout)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)
        nn.init.trunc_normal_(self.pos_embed, std=STD)
        self.blocks.apply(_init_linear)

    def forward(self, image: Tensor) -> list[Tensor]:
        """An image, B C X Y Z, to one map per tap, B E X/p Y/p Z/p, the last one after the final LayerNorm.

        The maps are views of the tokens, which lie channels last in memory.
        """
        p = self.patch_size
        patches = rearrange(image, "b c (x i) (y j) (z k) -> b (x y z) (c i j k)", i=p, j=p, k=p)
        tokens = self.dropout(self.patch_embed(patches) + self.pos_embed)
        states = []
        for index, block in enumerate(self.blocks, start=1):
            tokens = run(block, tokens, keep=self.keep)
            if index in self.taps:
                states.append(tokens)
        states[-1] = self.norm(tokens)
        return [self._to_map(state) for state in states]

    def _to_map(self, tokens: Tensor) -> Tensor:
        gx, gy, _ = self.grid
        return rearrange(tokens, "b (x y z) e -> b e x y z", x=gx, y=gy)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, dropout_p: float) -> Tensor:
    """`scaled_dot_product_attention` written out; B H N D each."""
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
    return F.dropout(weights, dropout_p).to(v.dtype) @ v


def _init_linear(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
