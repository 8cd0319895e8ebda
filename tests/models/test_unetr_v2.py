"""The second network: equal to the first by default, and each of its parts by a closed form or a property."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from raum_lightning.errors import ConfigError
from raum_lightning.models import UNETRV2, vit_v2
from raum_lightning.models.accelerate import accelerate
from raum_lightning.training.sharding import shard
from tests.helpers.networks import MODERN, gradients, image_for, modern, perturbed, small

VARIANTS: list[dict[str, Any]] = [
    {},
    {"stem": "conv", "norm": "batch"},
    {"stem": "conv", "stem_size": 8, "skips": "both", "norm": "group", "position": "both"},
    MODERN,
    MODERN | {"stem_stride": 2, "out_indices": (2, 4)},
    MODERN | {"patch_size": 4, "out_indices": (2, 4), "drop_path": 0.3, "dropout": 0.1, "img_size": (8, 12, 16)},
]


@pytest.mark.slow
def test_defaults_are_the_first_network() -> None:
    first, second = small(mlp_dim=96).double(), modern().double()
    second.load_state_dict(first.state_dict(), strict=True)
    image = image_for(second, torch.float64)
    torch.testing.assert_close(gradients(second, image), gradients(first, image), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("changes", VARIANTS)
def test_every_parameter_gets_a_gradient(changes: dict[str, Any]) -> None:
    network = modern(**changes)
    logits, _, grads = gradients(network, image_for(network))
    logits = logits if isinstance(logits, tuple) else (logits,)
    expected = [tuple(length // 2**step for length in network.img_size) for step in range(len(logits))]
    assert [tuple(one.shape) for one in logits] == [(2, 4, *size) for size in expected]
    assert [name for name, grad in grads.items() if grad is None or not grad.any()] == []


@pytest.mark.slow
@pytest.mark.parametrize("changes", VARIANTS[1:5])
def test_gradients_are_the_differences_quotients(changes: dict[str, Any]) -> None:
    """In float64, along one direction through image and parameters."""
    network = perturbed(modern(**changes)).eval()
    image = image_for(network, torch.float64)
    weights = torch.randn(2, 4, *network.img_size, dtype=torch.float64)
    direction = [torch.randn_like(parameter) for parameter in network.parameters()]

    def loss(step: float) -> Tensor:
        moved = {n: p + step * d for (n, p), d in zip(network.named_parameters(), direction, strict=True)}
        return (torch.func.functional_call(network, moved, (image,)) * weights).mean()

    grads = torch.autograd.grad(loss(0.0), list(network.parameters()), allow_unused=True)
    slope = torch.stack([(g * d).sum() for g, d in zip(grads, direction, strict=True) if g is not None]).sum()
    step = 1e-7  # few kinks of the activations lie within it
    assert slope.item() == pytest.approx(((loss(step) - loss(-step)) / (2 * step)).item(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("changes", VARIANTS[1:5])
def test_accelerated_numbers_are_the_plain_ones(changes: dict[str, Any]) -> None:
    plain, fast = (perturbed(modern(**changes)) for _ in range(2))
    accelerate(fast, "cpu")
    image = image_for(plain, torch.float64)
    torch.testing.assert_close(gradients(fast, image), gradients(plain, image), rtol=1e-6, atol=1e-9)
    plain.eval(), fast.eval()
    with torch.no_grad():
        torch.testing.assert_close(fast(image), plain(image), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("changes", VARIANTS[2:5])
def test_accelerated_bf16_stays_near_full_precision(changes: dict[str, Any]) -> None:
    network = modern(**changes).eval()
    image = image_for(network)
    with torch.no_grad():
        expected = network(image)
        accelerate(network, "cpu")
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(image)
    assert rounded.dtype == torch.bfloat16 and rounded.is_contiguous()
    assert (rounded.float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.slow
@pytest.mark.parametrize("changes", [MODERN, VARIANTS[2]])
def test_checkpointing_changes_memory_and_no_number(changes: dict[str, Any]) -> None:
    held, results = {}, {}
    for checkpointing in ("none", "decoder", "all"):
        network = modern(**changes | {"drop_path": 0.2}, checkpointing=checkpointing)
        kept: list[int] = []
        torch.manual_seed(1)

        def keep(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            network(image_for(network))
        held[checkpointing] = sum(kept)
        torch.manual_seed(1)
        results[checkpointing] = gradients(network, image_for(network))
    assert held["none"] > held["decoder"] > held["all"]
    for checkpointing in ("decoder", "all"):
        torch.testing.assert_close(results[checkpointing], results["none"], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "millions"),
    [
        ({}, 99.30),
        ({"stem": "conv"}, 93.98),
        ({"skips": "both", "stem": "conv"}, 94.01),
        ({"patch_size": 8, "out_indices": (4, 8, 12)}, 90.88),
        ({"mlp": "swiglu"}, 99.32),
        ({"position": "rope", "layer_scale": 0.1, "qk_norm": True}, 98.93),
    ],
)
def test_parameter_counts(changes: dict[str, Any], millions: float) -> None:
    with torch.device("meta"):
        network = UNETRV2(**changes)
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions


def test_with_rope_alone_any_size_goes_through() -> None:
    network = modern(**MODERN).eval()
    whole = torch.randn(1, 3, 24, 40, 16)
    with torch.no_grad():
        assert network(whole).shape == (1, 4, 24, 40, 16)
    with pytest.raises(ValueError, match=r"the image's size=\(24, 36, 16\) is not divisible by patch_size=8; try"):
        network(torch.zeros(1, 3, 24, 36, 16))
    for fixed in (modern(**MODERN | {"position": "both"}), modern()):
        with pytest.raises(ValueError, match=r"img_size=\(16, 16, 16\)"):
            fixed(whole)


def test_rotary_products_depend_on_the_distance_alone() -> None:
    """<R(m) q, R(n) k> is the same wherever the two patches lie, if the vector between them is."""
    grid, head_dim = (3, 4, 5), 26  # four pairs for each axis, and one that is not turned
    rotation = vit_v2.rotary(grid, head_dim, like=torch.empty((), dtype=torch.float64))
    q, k = torch.randn(2, head_dim, dtype=torch.float64)
    turned_q, turned_k = (vit_v2.rotate(x.expand(1, 1, 60, head_dim), rotation)[0, 0] for x in (q, k))
    products = (turned_q @ turned_k.T).view(*grid, *grid)
    by_distance: dict[tuple[int, ...], list[float]] = {}
    places = torch.cartesian_prod(*(torch.arange(n) for n in grid)).tolist()
    for one in places:
        for other in places:
            distance = tuple(a - b for a, b in zip(one, other, strict=True))
            by_distance.setdefault(distance, []).append(products[(*one, *other)].item())
    assert all(max(values) - min(values) < 1e-12 for values in by_distance.values())
    assert len({round(values[0], 9) for values in by_distance.values()}) == len(by_distance)
    torch.testing.assert_close(turned_q.norm(dim=1), q.norm().expand(60), rtol=1e-12, atol=0)
    assert torch.equal(turned_q[0], q)


def test_rotary_angles_are_places_times_frequencies() -> None:
    cos, sin = vit_v2.rotary((1, 1, 3), 12, like=torch.empty((), dtype=torch.float64))
    # of six pairs, two for each axis: frequencies 1 and 1 / sqrt(100); only the last axis has more than one place
    expected = torch.tensor([[0, 0, 0, 0, n, n / 10] * 2 for n in range(3)], dtype=torch.float64)
    torch.testing.assert_close(cos, expected.cos())
    torch.testing.assert_close(sin, expected.sin())


def test_rope_alone_sees_where_tokens_are() -> None:
    """Without positions, attention gives permuted tokens permuted outputs."""
    network = modern(position="rope").double().eval()
    block, tokens = network.vit.blocks[0], torch.randn(1, 8, 24, dtype=torch.float64)
    rotation = vit_v2.rotary((2, 2, 2), 8, like=tokens)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(block(tokens[:, order]), block(tokens)[:, order])
    assert not torch.allclose(block(tokens[:, order], rotation), block(tokens, rotation)[:, order])


def test_swiglu_is_its_formula() -> None:
    mlp, x = vit_v2.SwiGLU(3, 5, dropout=0.0).double(), torch.randn(2, 4, 3, dtype=torch.float64)
    (gate, value), bias = mlp.gate_and_value.weight.split(5), mlp.gate_and_value.bias
    hidden = F.silu(x @ gate.T + bias[:5]) * (x @ value.T + bias[5:])
    torch.testing.assert_close(mlp(x), hidden @ mlp.out.weight.T + mlp.out.bias)
    block: Any = modern(mlp="swiglu").vit.blocks[0]
    assert block.mlp.out.in_features == 64  # 24 x 8/3


def test_layer_scale_of_zero_is_the_identity() -> None:
    network = modern(layer_scale=0.0, position="rope")
    tokens = torch.randn(2, 8, 24)
    for block in network.vit.blocks:
        assert torch.equal(block(tokens), tokens)


def test_queries_and_keys_are_normalised() -> None:
    attention = vit_v2.Attention(embed_dim=12, num_heads=2, qkv_bias=False, dropout=0.0, qk_norm=True)
    tokens = torch.randn(1, 5, 12)
    expected = attention(tokens)
    with torch.no_grad():
        attention.qkv.weight[:24] *= 100  # queries and keys; not values
    torch.testing.assert_close(attention(tokens), expected, rtol=1e-3, atol=1e-4)


def test_drop_path_keeps_the_expectation() -> None:
    drop, tokens = vit_v2.DropPath(0.25), torch.ones(40_000, 1, 2)
    torch.manual_seed(0)
    dropped = drop(tokens)
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert torch.equal(dropped[..., 0], dropped[..., 1]), "a case is dropped as a whole"
    assert dropped.mean().item() == pytest.approx(1, abs=0.01)
    assert torch.equal(drop.eval()(tokens), tokens)
    blocks: Any = modern(drop_path=0.3).vit.blocks
    probabilities = [block.drop_path.probability for block in blocks]
    assert probabilities == pytest.approx([0, 0.1, 0.2, 0.3])


def test_skips_of_the_stem_are_projections_of_its_resolutions() -> None:
    network: Any = modern(**MODERN).eval()
    image = image_for(network)
    resolutions = network.encode(image)[4:]
    assert [tuple(one.shape[1:]) for one in resolutions] == [(4, 16, 16, 16), (4, 8, 8, 8), (8, 4, 4, 4), (16, 2, 2, 2)]
    plain = network.projections[0].convolution(resolutions[0])
    torch.testing.assert_close(network.projections[0](resolutions[0]), plain)
    with torch.no_grad():
        network.projections[0].factor[0] = 0.5
    halved = network.projections[0](resolutions[0])
    torch.testing.assert_close(halved[:, 0], plain[:, 0] / 2)
    torch.testing.assert_close(halved[:, 1:], plain[:, 1:])


def test_deep_logits_are_for_training_only() -> None:
    network = modern(deep_supervision=True)
    assert len(network(image_for(network))) == 3
    assert isinstance(network.eval()(image_for(network)), Tensor)
    assert len(modern(deep_supervision=True, patch_size=4, out_indices=(2, 4))(torch.randn(1, 3, 16, 16, 16))) == 2


def test_keys_are_not_ignored_where_there_is_one_level_or_block() -> None:
    with pytest.raises(ConfigError, match="deep_supervision needs a level at 1/2, and patch_size=2 has none"):
        modern(deep_supervision=True, patch_size=2, out_indices=(4,))
    block: Any = modern(depth=1, patch_size=2, out_indices=(1,), drop_path=0.5, layer_scale=1).vit.blocks[0]
    assert block.drop_path.probability == 0.5 and block.scale1.factor.dtype == torch.float32


def test_a_stem_that_halves_saves_seven_eighths_of_the_operations() -> None:
    """An image is as much work as one of half the edge for the network without it, and the head's 8 voxels for one."""
    halving: Any = modern(**MODERN | {"img_size": 32, "patch_size": 16, "stem_stride": 2}).eval()
    plain = modern(**MODERN).eval()
    resolutions = halving.encode(image_for(halving))[4:]
    assert [one.shape[2] for one in resolutions] == [16, 8, 4, 2]
    assert isinstance(halving.head, torch.nn.ConvTranspose3d)
    work = []
    for network in (halving, plain):
        with torch.utils.flop_counter.FlopCounterMode(display=False) as counter, torch.no_grad():
            network(image_for(network))
        work.append(counter.get_total_flops())
    # the projection of the whole image and the head's eight voxels
    assert 1 < work[0] / work[1] < 1.2


@pytest.mark.slow
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_programs_say_the_same(tmp_path: Path, stem_stride: int) -> None:
    """As ONNX and by `torch.export`, with the number of images free."""
    changes = {"img_size": 8, "patch_size": 2 * stem_stride, "depth": 1, "out_indices": (1,), "deep_supervision": False}
    network = modern(**MODERN | changes, stem_stride=stem_stride).eval()
    images = torch.randn(3, 3, 8, 8, 8)
    free = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (images,), dynamic_shapes=free).module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx = torch.onnx.export(network, (images,), dynamo=True, dynamic_shapes=free, verbose=False)
    assert onnx is not None
    onnx.save(str(tmp_path / "v2.onnx"))
    session = onnxruntime.InferenceSession(tmp_path / "v2.onnx")
    for batch in (images, images[:2]):
        with torch.no_grad():
            expected = network(batch)
            torch.testing.assert_close(program(batch), expected, rtol=1e-4, atol=1e-5)
        (logits,) = session.run(None, {session.get_inputs()[0].name: batch.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-3, atol=1e-4)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[DeviceMesh]:
    """One process that shares its weights with itself."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


# while gradients are taken nothing changes logits in place
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FSDP2-wrapped module")
@pytest.mark.parametrize("fast", [False, True])
def test_shards_compute_the_same(mesh: DeviceMesh, fast: bool) -> None:
    whole, sharded = (modern(**MODERN).double() for _ in range(2))
    if fast:
        accelerate(sharded, "cpu")
    shard(sharded, mesh)
    image = image_for(whole, torch.float64)
    logits, _, grads = gradients(sharded, image)
    expected, _, expected_grads = gradients(whole, image)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    assert grads.keys() == expected_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad.full_tensor(), expected_grads[name], rtol=1e-6, atol=1e-9)


@pytest.mark.compile
def test_it_is_one_graph() -> None:
    torch._dynamo.reset()
    network = modern(**MODERN | {"patch_size": 4, "depth": 2, "out_indices": (1, 2)})
    image = image_for(network)
    graph = torch.compile(network, backend="aot_eager", dynamic=False, fullgraph=True)
    torch.testing.assert_close(graph(image), network(image))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"skips": "stem"}, "skips='stem' needs stem='conv'; stem='linear' has no feature maps"),
        ({"drop_path": 1.0}, r"drop_path=1\.0 must be a probability in \[0, 1\)"),
        ({"position": "rope", "num_heads": 8}, "position='rope' turns pairs .* is 3; it must be even and at least 6"),
        ({"norm": "group", "stem": "conv", "stem_size": 4}, "stem_size=4 is not divisible by the 8 groups"),
        ({"norm": "batch", "checkpointing": "all"}, "checkpointing='all' cannot be combined with norm='batch'"),
        (
            {"stem_stride": 2, "stem": "conv"},
            "stem_stride=2 needs skips='stem'; others start at the image's resolution",
        ),
        (
            MODERN | {"stem_stride": 2},
            r"out_indices=\(1, 2, 4\) names 3 blocks but patch_size=8 with stem_stride=2 needs 2",
        ),
        (MODERN | {"stem_stride": 4}, "stem_stride=4 is none of 1, 2"),
        (MODERN | {"stem_stride": 2, "patch_size": 2}, "patch_size=2 is not a power of two of at least 4; try 16"),
        ({"stem_size": 0}, "stem_size=0 must be a whole number from 1"),
        ({"mlp_dim": -1}, "mlp_dim=-1 must be a whole number from 1"),
        ({"position": "rotary"}, "position='rotary' is none of learned, rope, both"),
        ({"layer_scale": -1}, "layer_scale=-1 must be a number of at least 0, or null"),
        ({"out_indices": (4,)}, r"out_indices=\(4,\) names 1 blocks but patch_size=8 needs 3"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        modern(**changes)
