"""Weights of MONAI's UNETR to ours and back, by the names of their tensors; MONAI itself is not needed.

MONAI 1.6.1 (https://github.com/Project-MONAI/MONAI, `monai/networks/nets/unetr.py`) fixes the patch size at 16 and the
depth at 12, and takes the skips from blocks 4, 7, 10 and 12. Its weights therefore mean the same only so:

    network = UNETR(in_channels=1, out_channels=14, img_size=96, out_indices=OUT_INDICES)
    network.load_state_dict(from_monai(torch.load("unetr.pt")))

Tensors are the same up to their names, but for the patch embedding, which MONAI keeps as a convolution's kernel.
"""

import re
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor

from raum_lightning.errors import ConfigError
from raum_lightning.models.transfer import EMBEDDING

DEPTH, PATCH_SIZE = 12, 16
OUT_INDICES = (4, 7, 10, 12)
# of `proj_type="perceptron"`, the default of MONAI's first releases: a linear map of the voxels in the order (i j k c)
_PERCEPTRON = "vit.patch_embedding.patch_embeddings.1"
# parameters that MONAI registers and never reads; older checkpoints hold the whole unused cross-attention, and those of
# its first releases a token for classes
_UNUSED = re.compile(r"vit\.(blocks\.\d+\.(norm_cross_attn|cross_attn)\.|patch_embedding\.cls_token$)")


def _names(depth: int = DEPTH) -> dict[str, str]:
    """Return our modules and lone parameters of a network with so many blocks, each with MONAI's name."""
    names = {
        "vit.patch_embed": "vit.patch_embedding.patch_embeddings",
        "vit.pos_embed": "vit.patch_embedding.position_embeddings",
        "vit.norm": "vit.norm",
        "head": "out.conv.conv",
    }
    parts = {"attn.proj": "attn.out_proj", "mlp.0": "mlp.linear1", "mlp.3": "mlp.linear2"}
    for block in range(depth):
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.0", "mlp.3"):
            names[f"vit.blocks.{block}.{part}"] = f"vit.blocks.{block}.{parts.get(part, part)}"
    names |= _residual("skips.0", "encoder1.layer")
    for level in (1, 2, 3):
        ours, theirs = f"skips.{level}", f"encoder{level + 1}"
        names[f"{ours}.0"] = f"{theirs}.transp_conv_init.conv"
        for step in range(3 - level):
            names[f"{ours}.{step + 1}.0"] = f"{theirs}.blocks.{step}.0.conv"
            names |= _residual(f"{ours}.{step + 1}.1", f"{theirs}.blocks.{step}.1")
    for level in range(4):
        ours, theirs = f"levels.{level}", f"decoder{level + 2}"
        names[f"{ours}.up"] = f"{theirs}.transp_conv.conv"
        names |= _residual(f"{ours}.block", f"{theirs}.conv_block")
    return names


def _residual(ours: str, theirs: str) -> dict[str, str]:
    parts = {"conv1": "conv1.conv", "norm1": "norm1", "conv2": "conv2.conv", "norm2": "norm2"}
    parts |= {"shortcut.0": "conv3.conv", "shortcut.1": "norm3"}
    return {f"{ours}.{part}": f"{theirs}.{name}" for part, name in parts.items()}


def _rename(key: str, names: Mapping[str, str]) -> str:
    module, _, leaf = key.rpartition(".")
    if key in names:
        return names[key]
    if module in names:
        return f"{names[module]}.{leaf}"
    raise ConfigError(
        f"{key} is no tensor of a UNETR of depth {DEPTH} and patch size {PATCH_SIZE}; check the checkpoint"
    )


def from_monai(state: Mapping[str, Tensor], *, strict: bool = True) -> dict[str, Tensor]:
    """Return a state dict of MONAI's UNETR, or of its ViT of any depth, as ours; what MONAI never uses is left out.

    Without `strict` other tensors keep their names, and the patch embedding may be missing.

    Raises:
        ConfigError: A name that MONAI's UNETR does not have, or no patch embedding.
    """
    state = {
        name.replace(_PERCEPTRON, "vit.patch_embedding.patch_embeddings"): _as_kernel(one)
        if name == f"{_PERCEPTRON}.weight"
        else one
        for name, one in state.items()
    }
    blocks = [int(found[1]) for name in state if (found := re.match(r"vit\.blocks\.(\d+)\.", name))]
    names = {theirs: ours for ours, theirs in _names(max(blocks, default=-1) + 1).items()}
    used = {key: tensor for key, tensor in state.items() if not _UNUSED.match(key)}
    ours = {_rename(key, names) if strict or _is_known(key, names) else key: tensor for key, tensor in used.items()}
    if (weight := ours.get(EMBEDDING)) is not None and weight.ndim > 1:
        ours[EMBEDDING] = weight.flatten(1)
    elif strict:
        raise ConfigError(
            f"{names['vit.patch_embedding.patch_embeddings']}.weight is missing or no kernel: of no UNETR"
        )
    return ours


def _is_known(key: str, names: Mapping[str, str]) -> bool:
    return key in names or key.rpartition(".")[0] in names


def _as_kernel(weight: Tensor) -> Tensor:
    """Return the weight E (i j k c) of a perceptron as E (c i j k)."""
    if weight.ndim != 2 or weight.shape[1] % PATCH_SIZE**3:
        raise ConfigError(f"{_PERCEPTRON}.weight of shape {list(weight.shape)} has not the patch size {PATCH_SIZE}")
    return rearrange(weight, "e (i j k c) -> e (c i j k)", i=PATCH_SIZE, j=PATCH_SIZE, k=PATCH_SIZE)


def to_monai(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict of ours as MONAI's, which loads strictly: what it never uses keeps its initial values.

    Raises:
        ConfigError: A name that has no counterpart, as in a network of another depth or patch size.
    """
    if not {f"vit.blocks.{DEPTH - 1}.norm1.weight", "levels.3.up.weight"} <= state.keys():
        raise ConfigError(f"MONAI's UNETR has depth {DEPTH} and patch size {PATCH_SIZE}; this network is smaller")
    names = _names()
    theirs = {_rename(key, names): tensor for key, tensor in state.items()}
    weight = names["vit.patch_embed"] + ".weight"
    theirs[weight] = rearrange(theirs[weight], "e (c i j k) -> e c i j k", i=PATCH_SIZE, j=PATCH_SIZE, k=PATCH_SIZE)
    for block in range(DEPTH):
        unused, like = f"vit.blocks.{block}.norm_cross_attn", theirs[f"vit.blocks.{block}.norm1.weight"]
        theirs |= {f"{unused}.weight": torch.ones_like(like), f"{unused}.bias": torch.zeros_like(like)}
    return theirs
