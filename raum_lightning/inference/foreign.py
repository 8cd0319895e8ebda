"""Weights of MONAI's UNETR as a file of ours and back; MONAI itself is not needed."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from raum_lightning.atomic import atomic
from raum_lightning.datasets import load
from raum_lightning.errors import CheckpointError, ConfigError, UserError
from raum_lightning.inference.card import ModelCard, describe
from raum_lightning.inference.exported import NETWORK
from raum_lightning.inference.loading import check_finite_weights, open_network
from raum_lightning.inference.weights import named_as_ours, read_weights
from raum_lightning.models.decoder import GROUPS
from raum_lightning.models.monai import OUT_INDICES, PATCH_SIZE, to_monai
from raum_lightning.models.unetr import UNETR
from raum_lightning.runs.checkpoints import MODEL_CARD

# of a head in ViT-B and most others
_HEAD_DIM = 64


def import_monai(
    path: Path,
    out: Path,
    *,
    heads: int | None = None,
    img_size: Sequence[int] | None = None,
    modalities: Sequence[str] = (),
    dataset: str | None = None,
    mode: str = "labels",
) -> UNETR:
    """Write the safetensors `out` of a state dict of MONAI's UNETR, and return the network.

    With `modalities` and `dataset` the file can be segmented with, else it is for `module.init_from`.

    Args:
        path: A file of torch with the state dict, as for `read_weights`.
        out: Appears whole or not at all.
        heads: Of the attention, which no tensor tells; one for 64 numbers of a token where not given.
        img_size: X, Y, Z in voxels; a cube where not given.
        modalities: What the input channels are.
        dataset: Whose classes or regions the output channels are.
        mode: labels or regions.

    Raises:
        CheckpointError: The file cannot be read, or is not of a whole UNETR.
        ConfigError: What no tensor tells is needed, or does not fit.
    """
    given = read_weights(path).tensors
    tensors = named_as_ours(given)
    if tensors.keys() == given.keys():
        raise ConfigError(
            f"{path}: is no state dict of MONAI's UNETR; a file of raum's own is used as it is, or made one for MONAI "
            "with --to"
        )
    try:
        arguments = _arguments(path, tensors, heads, img_size)
    except UserError:
        raise
    except (LookupError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{path}: its tensors are not those of MONAI's UNETR ({error})") from error
    network = UNETR(**arguments)
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        problem = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{path}: does not hold a complete MONAI UNETR ({problem})") from error
    check_finite_weights(tensors, path)
    spec = {"class_path": "raum_lightning.models.UNETR", "init_args": arguments}
    metadata = {NETWORK: json.dumps(spec)}
    if modalities or dataset:
        metadata[MODEL_CARD] = _card(arguments, modalities, dataset, mode).to_json()
    from safetensors.torch import save

    with atomic(out) as partial:
        partial.write_bytes(save({name: one.contiguous() for name, one in network.state_dict().items()}, metadata))
    return network


def export_monai(path: Path, out: Path) -> str:
    """Write a state dict for MONAI's UNETR of a checkpoint or safetensors of ours; return the call that makes that.

    Of its arguments the tensors do not tell the heads, nor group norm from instance norm. Of a MONAI UNETR that was
    trained here the tensors are written as they are.

    Raises:
        ConfigError: MONAI has no such network: another depth, patch size, class, or skips from other blocks.
    """
    network = open_network(path).network
    if f"{type(network).__module__}.{type(network).__name__}" == "monai.networks.nets.unetr.UNETR":  # as a baseline
        _save(network.state_dict(), out)
        return f"the network of {path}, a monai.networks.nets.UNETR"
    if not isinstance(network, UNETR):
        raise ConfigError(f"{path}: is a {type(network).__name__}, and only a UNETR has a counterpart in MONAI")
    if network.vit.out_indices != OUT_INDICES:
        raise ConfigError(
            f"{path}: its decoder takes blocks {list(network.vit.out_indices)} and MONAI's {list(OUT_INDICES)}, so "
            "that the logits would differ; train with out_indices as MONAI's"
        )
    _save(to_monai(network.state_dict()), out)
    return _call(network)


def _save(state: Mapping[str, Tensor], out: Path) -> None:
    # to an open file: of a path torch does not say why it could not be written
    with atomic(out) as partial, partial.open("wb") as file:
        torch.save({name: one.clone() for name, one in state.items()}, file)


def _call(network: UNETR) -> str:
    block: Any = network.vit.blocks[0]
    norms = {
        "instance": '"instance"',
        "instance_affine": '("instance", {"affine": True})',
        "batch": '"batch"',
        "group": f'("group", {{"num_groups": {GROUPS}}})',
    }
    arguments = {
        "in_channels": network.in_channels,
        "out_channels": network.out_channels,
        "img_size": tuple(network.img_size),
        "feature_size": network.head.in_channels,
        "hidden_size": block.attn.proj.in_features,
        "mlp_dim": block.mlp[0].out_features,
        "num_heads": block.attn.num_heads,
        "norm_name": norms[network.norm],
        "qkv_bias": block.attn.qkv.bias is not None,
    }
    return f"monai.networks.nets.UNETR({', '.join(f'{name}={value}' for name, value in arguments.items())})"


def _arguments(
    path: Path, tensors: Mapping[str, Tensor], heads: int | None, img_size: Sequence[int] | None
) -> dict[str, Any]:
    """Return the arguments of UNETR that the shapes of its tensors tell."""
    try:
        embed_dim = tensors["vit.norm.weight"].shape[0]
        out_channels, feature_size = tensors["head.weight"].shape[:2]
        inputs = tensors["vit.patch_embed.weight"].shape[1]
        tokens = tensors["vit.pos_embed"].shape[1]
        mlp_dim = tensors["vit.blocks.0.mlp.0.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"{path}: does not hold a complete MONAI UNETR ({error} is missing)") from error
    if heads is None and embed_dim % _HEAD_DIM:
        raise ConfigError(
            f"{path}: no tensor tells the heads of a network of {embed_dim} numbers a token; give --heads"
        )
    edge = round(tokens ** (1 / 3))
    if img_size is None and edge**3 != tokens:
        raise ConfigError(f"{path}: {tokens} patches do not form a cube; give --img-size X Y Z")
    if img_size is not None and (patches := math.prod(length // PATCH_SIZE for length in img_size)) != tokens:
        raise ConfigError(
            f"{path}: holds positions of {tokens} patches of {PATCH_SIZE}^3 voxels, and --img-size "
            f"{' '.join(map(str, img_size))} is {patches}"
        )
    norm = "levels.0.block.norm1."
    affine = f"{norm}weight" in tensors
    return {
        "in_channels": inputs // PATCH_SIZE**3,
        "out_channels": out_channels,
        "img_size": list(img_size or [edge * PATCH_SIZE] * 3),
        "embed_dim": embed_dim,
        "num_heads": heads or embed_dim // _HEAD_DIM,
        "mlp_dim": mlp_dim,
        "out_indices": list(OUT_INDICES),
        "feature_size": feature_size,
        "norm": "batch" if f"{norm}running_mean" in tensors else "instance_affine" if affine else "instance",
        "qkv_bias": "vit.blocks.0.attn.qkv.bias" in tensors,
    }


def _card(arguments: Mapping[str, Any], modalities: Sequence[str], dataset: str | None, mode: str) -> ModelCard:
    if len(modalities) != arguments["in_channels"] or not dataset:
        raise ConfigError(
            f"--modalities names {len(modalities)} of {arguments['in_channels']} channels and --dataset is {dataset}: "
            "give both, or neither for weights that are only to start from"
        )
    card = ModelCard(
        modalities=tuple(modalities),
        **describe(load(dataset)),
        orientation="LPS",
        spacing=(1.0, 1.0, 1.0),
        mode=mode,
        roi_size=tuple(arguments["img_size"]),
    )
    if len(card.channels) != arguments["out_channels"]:
        raise ConfigError(
            f"the network has {arguments['out_channels']} outputs but the {mode} of {dataset} are "
            f"{len(card.channels)}: {', '.join(card.channels)}"
        )
    return card
