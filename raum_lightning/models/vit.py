"""The Vision Transformer of UNETR: patches of a volume in, feature maps of chosen blocks out.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (ICLR 2021, arXiv:2010.11929), as UNETR uses it: pre-norm blocks,
no [CLS] token, a learnable 1-D position embedding. The official implementation of UNETR is MONAI's
(https://github.com/Project-MONAI/MONAI, `monai/networks/nets/vit.py`). What differs here, and why:

- The patch embedding is one matrix product on rearranged patches instead of a strided convolution: the same numbers,
  in less time.
- Dropout of the attention acts in training only.
- Every parameter takes part in the output, so that DistributedDataParallel works as it is. MONAI 1.6 carries a
  LayerNorm for cross-attention in each block that nothing reads.
- Linear layers inside the blocks start from a normal distribution truncated at two units, standard deviation 0.02, with
  zero biases, as in Google's and timm's ViT. MONAI does so for the position embedding only and leaves the blocks
  to PyTorch's default. The patch embedding keeps that default in both: its fan-in of thousands asks for less.

Shapes: B batch, C input channels, X Y Z voxels, x y z patches, i j k voxels of a patch, N = x y z tokens, E embedding,
h heads of d numbers.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from raum_lightning.errors import ConfigError

STD = 0.02


class Attention(nn.Module):
    """Multi-head self-attention."""

    attend: Callable[..., Tensor] = staticmethod(F.scaled_dot_product_attention)

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
        heads = self.attend(q, k, v, dropout_p=self.dropout.p if self.training else 0.0)
        out: Tensor = self.dropout(self.proj(rearrange(heads, "b h n d -> b n (h d)")))
        return out


class Block(nn.Module):
    """A pre-norm transformer block: attention, then a GELU MLP, each added to its input."""

    def __init__(self, *, embed_dim: int, num_heads: int, mlp_dim: int, qkv_bias: bool, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim)
        self.attn = Attention(embed_dim=embed_dim, num_heads=num_heads, qkv_bias=qkv_bias, dropout=dropout)
        self.norm2 = nn.LayerNorm(embed_dim)
        self.mlp = gelu_mlp(embed_dim, mlp_dim, dropout=dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens, B N E, to tokens, B N E."""
        tokens = tokens + self.attn(self.norm1(tokens))
        out: Tensor = tokens + self.mlp(self.norm2(tokens))
        return out


class ViT(nn.Module):
    """The encoder: patches of an image as tokens, through `depth` blocks.

    Args:
        in_channels: C of the image.
        img_size: X, Y, Z of the image in voxels.
        patch_size: Edge of a patch in voxels; divides `img_size`.
        embed_dim: Width of a token; a multiple of `num_heads`.
        depth: Number of blocks.
        num_heads: Heads of the attention.
        mlp_dim: Hidden width of each block's MLP.
        out_indices: Blocks whose outputs are returned, counted from 1, rising and ending with `depth`.
        qkv_bias: Whether queries, keys and values have a bias.
        dropout: Probability of dropping tokens, hidden units and attention weights in training.
        checkpoint_blocks: Compute each block again for the gradient instead of keeping what it computed.

    Raises:
        ConfigError: Sizes do not divide each other, or `out_indices` do not fit the depth.
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
        out_indices: Sequence[int],
        qkv_bias: bool,
        dropout: float,
        checkpoint_blocks: bool,
    ) -> None:
        super().__init__()
        self.checkpoint_blocks = checkpoint_blocks
        self.out_indices = check_out_indices(out_indices, depth)
        self.patch_size = patch_size
        self.grid = grid_of(img_size, patch_size)
        self.patch_embed = nn.Linear(in_channels * patch_size**3, embed_dim)
        self.pos_embed = nn.Parameter(torch.empty(1, math.prod(self.grid), embed_dim))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(embed_dim=embed_dim, num_heads=num_heads, mlp_dim=mlp_dim, qkv_bias=qkv_bias, dropout=dropout)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim)
        nn.init.trunc_normal_(self.pos_embed, std=STD)
        self.blocks.apply(init_linear)

    def forward(self, image: Tensor) -> list[Tensor]:
        """An image, B C X Y Z, to one map B E x y z for each of `out_indices`, the last one after a LayerNorm."""
        p = self.patch_size
        patches = rearrange(image, "b c (x i) (y j) (z k) -> b (x y z) (c i j k)", i=p, j=p, k=p)
        tokens = self.dropout(self.patch_embed(patches) + self.pos_embed)
        states = []
        for index, block in enumerate(self.blocks, start=1):
            tokens = run(block, tokens, again=self.checkpoint_blocks)
            if index in self.out_indices:
                states.append(tokens)
        states[-1] = self.norm(tokens)
        return [to_map(state, self.grid) for state in states]


def gelu_mlp(embed_dim: int, hidden: int, *, dropout: float) -> nn.Sequential:
    """Return the MLP of a block, from and to B N E."""
    return nn.Sequential(
        nn.Linear(embed_dim, hidden),
        nn.GELU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, embed_dim),
        nn.Dropout(dropout),
    )


def run(module: nn.Module, *inputs: Tensor, again: bool) -> Tensor:
    """Return the module's output; `again` has it computed once more for the gradient instead of being kept."""
    if again and torch.is_grad_enabled():
        recomputed: Tensor = checkpoint(module, *inputs, use_reentrant=False)
        return recomputed
    out: Tensor = module(*inputs)
    return out


def to_map(tokens: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Return tokens B N E as a map B E x y z, contiguous: channels last would slow down what follows it."""
    x, y, z = grid
    return rearrange(tokens, "b (x y z) e -> b e x y z", x=x, y=y, z=z).contiguous()


def grid_of(size: Sequence[int], patch_size: int, *, key: str = "img_size") -> tuple[int, ...]:
    """Return the patches along each axis of `size` voxels; raise `ConfigError` for `key` where they do not divide."""
    if any(length % patch_size for length in size):
        multiple = tuple(_nearest_multiple(length, patch_size) for length in size)
        raise ConfigError(f"{key}={tuple(size)} is not divisible by patch_size={patch_size}; try {multiple}")
    return tuple(length // patch_size for length in size)


def check_out_indices(out_indices: Sequence[int], depth: int) -> tuple[int, ...]:
    """Return them as a tuple; raise `ConfigError` where they do not rise from 1 or more to `depth`."""
    indices = tuple(out_indices)
    if list(indices) != sorted(set(indices)) or indices[0] < 1 or indices[-1] != depth:
        raise ConfigError(f"out_indices={indices} must rise, from 1 or more, to depth={depth}")
    return indices


def init_linear(module: nn.Module) -> None:
    """Start a linear layer as in timm's ViT; leave any other module as it is."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _nearest_multiple(value: int, divisor: int) -> int:
    return max(1, round(value / divisor)) * divisor
