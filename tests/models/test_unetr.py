"""The network against MONAI's, by its weights and its gradients, and what MONAI's does not have."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks import nets
from torch import Tensor, nn

from raum_lightning.errors import ConfigError
from raum_lightning.models import UNETR, cpu, layout
from raum_lightning.models.accelerate import accelerate
from raum_lightning.models.monai import OUT_INDICES, from_monai, to_monai
from tests.helpers.networks import SMALL, gradients, small

# keywords of both networks; MONAI fixes depth and patch size
SIZES = [
    {"img_size": (32, 32, 32), "in_channels": 1, "out_channels": 2, "feature_size": 4},
    {"img_size": (32, 16, 48), "in_channels": 3, "out_channels": 4, "feature_size": 2, "qkv_bias": True},
    {"img_size": (16, 32, 16), "in_channels": 2, "out_channels": 3, "feature_size": 8, "norm": "batch"},
    {"img_size": (16, 16, 32), "in_channels": 8, "out_channels": 1, "feature_size": 8, "norm": "group"},
]


def pair(sizes: dict[str, Any]) -> tuple[UNETR, nn.Module]:
    """Our network and MONAI's with the same weights, both in float64."""
    torch.manual_seed(0)
    sizes = {"norm": "instance", **sizes}
    ours = UNETR(**sizes, embed_dim=48, num_heads=4, mlp_dim=96, out_indices=OUT_INDICES)
    norm = sizes.pop("norm")
    theirs = nets.UNETR(
        **sizes,
        hidden_size=48,
        num_heads=4,
        mlp_dim=96,
        norm_name=("group", {"num_groups": 8}) if norm == "group" else norm,
    )
    with torch.no_grad():
        for parameter in theirs.parameters():  # norms too must not be at their initial ones and zeros
            parameter.add_(torch.rand_like(parameter), alpha=0.1)
    ours.load_state_dict(from_monai(theirs.state_dict()))
    return ours.double(), theirs.double()


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES)
def test_logits_and_gradients_are_monais(sizes: dict[str, Any]) -> None:
    ours, theirs = pair(sizes)
    check_parity(ours, theirs, torch.randn(2, sizes["in_channels"], *sizes["img_size"], dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("sizes", SIZES)
def test_accelerated_ones_are_monais_too(
    monkeypatch: pytest.MonkeyPatch, sizes: dict[str, Any], at_once: bool, memory: torch.memory_format
) -> None:
    ours, theirs = pair(sizes)
    monkeypatch.setattr(layout, "layout_of", lambda dtype, norm, device: memory)
    monkeypatch.setattr(cpu.Upsampling, "_pays", lambda self, voxels: at_once)
    monkeypatch.setattr(cpu.Attention, "attend", staticmethod(cpu.by_products))
    accelerate(ours, "cpu")
    check_parity(ours, theirs, torch.randn(2, sizes["in_channels"], *sizes["img_size"], dtype=torch.float64))


def check_parity(ours: UNETR, theirs: nn.Module, image: Tensor) -> None:
    logits, image_grad, grads = gradients(ours, image)
    expected, expected_image_grad, expected_grads = gradients(theirs, image)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(image_grad, expected_image_grad, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(grads, from_monai(expected_grads), rtol=1e-6, atol=1e-9)
    ours.eval(), theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-9, atol=1e-9)


def test_names_and_shapes_are_those_of_saved_checkpoints() -> None:
    network = small(depth=3, out_indices=(1, 2, 3), qkv_bias=True)
    lines = [f"{name} {' '.join(map(str, tensor.shape))}" for name, tensor in network.state_dict().items()]
    assert lines == Path(__file__).with_name("state_dict.txt").read_text().splitlines()


def test_out_indices_answer_to_their_former_name() -> None:
    with pytest.warns(FutureWarning, match="taps of UNETR is now out_indices"):
        network = small(taps=[1, 3, 4])
    assert network.vit.out_indices == (1, 3, 4)


@pytest.mark.parametrize("sizes", SIZES)
def test_state_dict_makes_the_round_trip(sizes: dict[str, Any]) -> None:
    ours, theirs = pair(sizes)
    state = ours.state_dict()
    torch.testing.assert_close(from_monai(to_monai(state)), dict(state), rtol=0, atol=0)
    theirs.load_state_dict(to_monai(state), strict=True)
    torch.testing.assert_close(from_monai(theirs.state_dict()), dict(state), rtol=0, atol=0)


def test_unused_tensors_of_old_monai_checkpoints_are_left_out() -> None:
    state = pair(SIZES[0])[1].state_dict()
    extra = {"vit.blocks.3.cross_attn.to_q.weight": torch.zeros(48, 48)}
    assert from_monai(state | extra).keys() == from_monai(state).keys()


def test_patches_of_monais_first_releases_and_a_deeper_vit() -> None:
    """`proj_type="perceptron"` is a linear map of the voxels in another order; a ViT may have any depth."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"img_size": (32, 16, 48), "in_channels": 3, "out_channels": 2, "feature_size": 2}
    heads: dict[str, Any] = {"num_heads": 4, "mlp_dim": 96}
    theirs = nets.UNETR(**sizes, **heads, hidden_size=48, proj_type="perceptron").double().eval()
    ours = UNETR(**sizes, **heads, embed_dim=48, out_indices=OUT_INDICES, norm="instance").double().eval()
    ours.load_state_dict(from_monai(theirs.state_dict()))
    image = torch.randn(1, 3, 32, 16, 48, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-8, atol=1e-8)
    deep = {
        "vit.blocks.23.norm1.weight": torch.ones(2),
        "vit.patch_embedding.patch_embeddings.weight": torch.ones(2, 1),
    }
    assert "vit.blocks.23.norm1.weight" in from_monai(deep)


def test_foreign_state_dicts_are_named() -> None:
    with pytest.raises(ValueError, match=r"swinViT\.norm\.weight is no tensor of a UNETR"):
        from_monai({"swinViT.norm.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="depth 12 and patch size 16; this network is smaller"):
        to_monai(small().state_dict())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("in_channels", "out_channels", "size", "millions"), [(1, 14, 96, 92.78), (3, 4, 96, 99.08), (3, 4, 128, 99.30)]
)
def test_parameter_count_and_shape_at_full_size(
    in_channels: int, out_channels: int, size: int, millions: float
) -> None:
    with torch.device("meta"):
        network = UNETR(in_channels=in_channels, out_channels=out_channels, img_size=size)
        logits = network(torch.empty(2, in_channels, size, size, size))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions
    assert logits.shape == (2, out_channels, size, size, size)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"norm": "batch", "qkv_bias": True, "img_size": [16, 24, 8], "in_channels": 8},
        {"norm": "group", "out_channels": 1, "dropout": 0.1},
        {"patch_size": 16, "out_indices": (1, 2, 3, 4)},
        {"patch_size": 2, "out_indices": (4,), "img_size": (4, 2, 6)},
    ],
)
def test_every_parameter_gets_a_gradient(changes: dict[str, Any]) -> None:
    network = small(**changes)
    image = torch.randn(2, network.in_channels, *network.img_size)
    logits, _, grads = gradients(network, image)
    assert logits.shape == (2, network.out_channels, *network.img_size)
    assert [name for name, grad in grads.items() if grad is None or not grad.any()] == []


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"norm": "group", "dropout": 0.2}])
def test_checkpointing_changes_memory_and_no_number(changes: dict[str, Any]) -> None:
    results, held = {}, {}
    for checkpointing in ("none", "decoder", "all"):
        network = small(**changes, checkpointing=checkpointing)
        bytes_held = 0

        def count(tensor: Tensor) -> Tensor:
            nonlocal bytes_held
            bytes_held += tensor.nbytes
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            network(torch.randn(1, 3, 16, 16, 16))
        held[checkpointing] = bytes_held
        torch.manual_seed(1)
        results[checkpointing] = gradients(network, torch.randn(1, 3, 16, 16, 16))
    assert held["none"] > held["decoder"] > held["all"]
    for checkpointing in ("decoder", "all"):
        torch.testing.assert_close(results[checkpointing], results["none"], rtol=0, atol=0)


def test_dropout_acts_in_training_only() -> None:
    network, without = small(dropout=0.5), small()
    without.load_state_dict(network.state_dict(), strict=True)
    image = torch.randn(1, 3, 16, 16, 16)
    assert not torch.equal(network(image), network(image))
    assert torch.equal(network.eval()(image), without(image))


def test_autocast_stays_near_full_precision() -> None:
    network = small()
    image = torch.randn(1, 3, 16, 16, 16)
    logits, _, _ = gradients(network, image)
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _, grads = gradients(network, image)
    assert rounded.dtype == torch.bfloat16
    assert (rounded.float() - logits).norm() < 0.03 * logits.norm()
    assert all(grad.isfinite().all() for grad in grads.values())


def test_transformer_starts_from_the_truncated_normal() -> None:
    network = small(embed_dim=96, mlp_dim=384)
    linear = [m for block in network.vit.blocks for m in block.modules() if isinstance(m, nn.Linear)]
    for weight in [network.vit.pos_embed, *(m.weight for m in linear)]:
        assert weight.std().item() == pytest.approx(0.02, rel=0.15)
    assert not any(m.bias.any() for m in linear if m.bias is not None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 770, "num_heads": 12}, "embed_dim=770 is not divisible by num_heads=12; try 768"),
        ({"img_size": (16, 20, 3)}, r"img_size=\(16, 20, 3\) is not divisible by patch_size=8; try \(16, 16, 8\)"),
        ({"img_size": (16, 16)}, r"img_size=\(16, 16\) has 2 numbers but a volume has 3 axes"),
        ({"patch_size": 12}, "patch_size=12 is not a power of two"),
        ({"patch_size": 16}, r"out_indices=\(1, 2, 4\) names 3 blocks but patch_size=16 needs 4"),
        ({"depth": 5}, r"out_indices=\(1, 2, 4\) must rise, from 1 or more, to depth=5"),
        ({"out_indices": (2, 1, 4)}, r"out_indices=\(2, 1, 4\) must rise"),
        ({"out_indices": (0, 1, 4)}, r"out_indices=\(0, 1, 4\) must rise, from 1"),
        ({"norm": "batch", "checkpointing": "decoder"}, "checkpointing='decoder' cannot be combined with norm='batch'"),
        ({"norm": "layer"}, "norm='layer' is none of instance, instance_affine, batch, group"),
        ({"norm": "group", "feature_size": 12}, "feature_size=12 is not divisible by the 8 groups"),
        ({"embed_dim": -24}, "embed_dim=-24 must be a whole number from 1 to 65,536"),
        ({"embed_dim": 10**9}, "embed_dim=1000000000 must be a whole number from 1"),
        ({"num_heads": 0}, "num_heads=0 must be a whole number from 1"),
        ({"img_size": (16, 16, 0)}, r"img_size=\(16, 16, 0\) must be a whole number from 1"),
        ({"out_channels": 2.5}, r"out_channels=2\.5 must be a whole number from 1"),
        ({"dropout": 2}, r"dropout=2 must be a probability in \[0, 1\)"),
        ({"dropout": math.nan}, r"dropout=nan must be a probability"),
        ({"checkpointing": "some"}, "checkpointing='some' is none of none, decoder, all"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**changes)


class ByPlace(UNETR):
    """A subclass that lets arguments stand without their names."""

    def __init__(self, num_heads: int = 12, depth: int = 4, *rest: int, **others: Any) -> None:
        super().__init__(num_heads=num_heads, depth=depth, **others)


def test_arguments_by_place_are_described_by_name() -> None:
    others = {key: value for key, value in SMALL.items() if key not in ("num_heads", "depth")}
    assert ByPlace(3, **others).spec["init_args"] == {"num_heads": 3, **others}
    assert ByPlace(3, 4, **others).spec["init_args"] == {"num_heads": 3, "depth": 4, **others}
    with pytest.raises(ConfigError, match=r"given 3 arguments by place and has names for 2.*give them by keyword"):
        ByPlace(3, 4, 5, **others)


@pytest.mark.parametrize("shape", [(1, 2, 16, 16, 16), (1, 3, 16, 16, 24), (3, 16, 16, 16)])
def test_images_that_do_not_fit_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"in_channels=3.*img_size=\(16, 16, 16\)") as error:
        small()(torch.zeros(shape))
    assert str(shape) in str(error.value)
