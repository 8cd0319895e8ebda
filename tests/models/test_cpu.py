"""What computes a network faster on a CPU, against the plain network."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from raum_lightning.models import cpu, layout
from raum_lightning.models.accelerate import accelerate, slow_down
from raum_lightning.models.cpu import Upsampled, Upsampling
from tests.helpers.networks import gradients, perturbed, small


@pytest.mark.parametrize("width", [1, 3, 5])
@given(channels=st.tuples(*[st.integers(1, 4)] * 3), size=st.tuples(*[st.integers(1, 4)] * 3), biased=st.booleans())
def test_upsampling_and_convolving_at_once_is_one_after_the_other(
    width: int, channels: tuple[int, int, int], size: tuple[int, int, int], biased: bool
) -> None:
    below_channels, between, out = channels
    below = torch.randn(2, below_channels, *size, dtype=torch.float64)
    weight = torch.randn(below_channels, between, 2, 2, 2, dtype=torch.float64)
    kernel = torch.randn(out, between, width, width, width, dtype=torch.float64)
    bias = torch.randn(out, dtype=torch.float64) if biased else None
    up = Upsampled(below, weight)
    expected = nn.functional.conv3d(up.compute(), kernel, bias, padding=width // 2)
    assert up.shape == up.compute().shape
    torch.testing.assert_close(up.convolve(kernel, bias), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("size", "expected"), [(96, [False, False, True, True]), (128, [False, True, True, True])])
def test_upsampling_waits_where_it_pays(size: int, expected: list[bool]) -> None:
    """From the tokens of UNETR up to all voxels."""
    ups = [Upsampling(*channels) for channels in ((768, 128), (128, 64), (64, 32), (32, 16))]
    maps = [torch.zeros(1, up.in_channels, *[size >> (4 - level)] * 3) for level, up in enumerate(ups)]
    assert [isinstance(up(below), Upsampled) for up, below in zip(ups, maps, strict=True)] == expected


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"norm": "instance_affine", "img_size": [16, 24, 8]}, {"checkpointing": "all"}])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("at_once", [True, False])
def test_logits_and_gradients_are_the_plain_ones(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], at_once: bool, memory: torch.memory_format
) -> None:
    """Of what MONAI's UNETR does not have; the rest is compared in test_unetr.py."""
    plain = perturbed(small(**changes))
    fast = copy.deepcopy(plain)
    accelerate(fast, "cpu")
    monkeypatch.setattr(layout, "layout_of", lambda dtype, norm, device: memory)
    monkeypatch.setattr(Upsampling, "_pays", lambda self, voxels: at_once)
    image = torch.randn(2, 3, *plain.img_size, dtype=torch.float64)
    torch.testing.assert_close(gradients(fast, image), gradients(plain, image), rtol=1e-6, atol=1e-9)
    plain.eval(), fast.eval()
    with torch.no_grad():
        torch.testing.assert_close(fast(image), plain(image), rtol=1e-9, atol=1e-9)


def test_every_part_is_swapped_and_comes_back() -> None:
    network = nn.ModuleDict({"ours": small(), "theirs": nn.Sequential(nn.Conv3d(1, 1, 1), nn.InstanceNorm3d(1))})
    classes = [type(part) for part in network.modules()]
    names = list(network.state_dict())
    accelerate(network, "cpu")
    accelerate(network, "cpu")
    fast = (cpu.__name__, layout.__name__)
    here = [part for part in network["ours"].modules() if type(part).__module__ in fast]
    assert {type(part) for part in here} == {
        layout.UNETR,
        cpu.Attention,
        cpu.Upsampling,
        cpu.ResidualBlock,
        cpu.Skip,
        cpu.Level,
        cpu.Convolution,
        cpu.InstanceNorm,
    }
    assert not any(type(part).__module__ in fast for part in network["theirs"].modules())
    assert list(network.state_dict()) == names
    slow_down(network)
    assert [type(part) for part in network.modules()] == classes


@pytest.mark.parametrize(
    "part",
    [
        lambda: nn.Conv3d(8, 8, 3, padding=2, dilation=2),
        lambda: nn.Conv3d(8, 8, 3, padding=1, padding_mode="replicate"),
        lambda: nn.Conv3d(8, 8, 3, padding=1, groups=4),
        lambda: nn.InstanceNorm3d(8, track_running_stats=True).eval(),
    ],
    ids=["dilated", "replicate", "groups", "running"],
)
def test_a_network_with_parts_of_its_own_computes_the_same(part: Callable[[], nn.Module]) -> None:
    network: Any = small()
    network.head = nn.Sequential(part(), network.head)
    image = torch.randn(1, 3, *network.img_size)
    with torch.no_grad():
        plain = network.eval()(image)
        accelerate(network, "cpu")
        torch.testing.assert_close(network(image), plain, atol=0, rtol=0)


def _turn_shortcut(network: Any) -> None:
    network.skips[1][1][1].shortcut = nn.Conv3d(16, 16, 1)


def _drop(network: Any) -> None:
    network.levels[0].block = nn.Sequential(network.levels[0].block, nn.Dropout3d())


def _normalise_weights(network: Any) -> None:
    spectral_norm(network.levels[0].block.conv1)


@pytest.mark.parametrize("change", [_turn_shortcut, _drop, _normalise_weights])
def test_so_does_one_with_decoder_parts_of_its_own(change: Callable[[Any], None]) -> None:
    network: Any = small(out_indices=(1, 2, 3, 4), patch_size=16, img_size=32)
    change(network)
    image = torch.randn(1, 3, *network.img_size)
    with torch.no_grad():
        plain = network.eval()(image)
        accelerate(network, "cpu")
        torch.testing.assert_close(network(image), plain, atol=0, rtol=0)


def test_copies_and_pickles_stay_accelerated() -> None:
    network = small()
    accelerate(network, "cpu")
    image = torch.randn(1, 3, 16, 16, 16)
    expected = network(image)
    for again in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert type(again) is layout.UNETR
        assert torch.equal(again(image), expected)
    plain = small()
    plain.load_state_dict(network.state_dict(), strict=True)
    torch.testing.assert_close(plain(image), expected)


@pytest.mark.compile
def test_accelerated_networks_compile_to_one_graph() -> None:
    torch._dynamo.reset()
    network = small(patch_size=4, depth=2, out_indices=(1, 2))
    accelerate(network, "cpu")
    image = torch.randn(1, 3, 16, 16, 16)
    graph = torch.compile(network, backend="aot_eager", dynamic=False, fullgraph=True)
    torch.testing.assert_close(graph(image), network(image))


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "last"), [("instance", True), ("batch", True), ("group", False)])
def test_bf16_has_its_channels_last(norm: str, last: bool) -> None:
    network = small(norm=norm)
    accelerate(network, "cpu")
    image = torch.randn(2, 3, 16, 16, 16)
    assert all(map.is_contiguous() for map in network.encode(image))
    logits = network(image)
    with torch.autocast("cpu", torch.bfloat16):
        maps, in_bf16 = network.encode(image), network(image)
    assert maps[0].dtype == torch.bfloat16
    assert all(map.is_contiguous(memory_format=torch.channels_last_3d) == last for map in maps)
    assert in_bf16.is_contiguous()
    assert (in_bf16.float() - logits).std() < 0.02 * logits.std()


def test_attention_by_products_is_torchs() -> None:
    q, k, v = torch.randn(3, 2, 3, 5, 7, dtype=torch.float64)
    expected = nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(cpu.by_products(q, k, v, dropout_p=0.0), expected, rtol=1e-12, atol=1e-12)
    kept = cpu.by_products(q, k, torch.ones_like(v), dropout_p=0.5)
    assert kept.std() > 0.1, "weights are dropped"


@pytest.mark.parametrize(
    ("dtype", "tokens", "products"), [("bfloat16", 512, True), ("bfloat16", 4096, False), ("float32", 512, False)]
)
def test_attention_is_written_out_where_that_is_faster(
    monkeypatch: pytest.MonkeyPatch, dtype: str, tokens: int, products: bool
) -> None:
    used: list[Tensor] = []
    monkeypatch.setattr(cpu, "by_products", lambda q, k, v, dropout_p: used.append(q))
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda q, k, v, dropout_p: None)
    cpu.Attention.attend(*[torch.empty(1, 1, tokens, 8, dtype=getattr(torch, dtype))] * 3, dropout_p=0.0)
    assert bool(used) == products
